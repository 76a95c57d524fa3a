"""What every administrative operation works on, and how one is run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec

from certs.identity import IdentityRule
from gateway.clock import rfc3339
from gateway.config.shapes import did_you_mean
from gateway.identity.api_keys import ApiKeys
from gateway.identity.clients import Hasher
from gateway.identity.lockouts import Lockouts
from gateway.identity.roles import Roles
from gateway.identity.second_factors import SecondFactors
from gateway.identity.tenants import Tenants
from gateway.identity.tombstones import Tombstones
from gateway.model import ClientContext, Inbound
from gateway.operations.parameters import Parameters
from persistence.protocols import Stores
from persistence.records import API_KEYS, ROLES, TENANTS, AuditEntry, AuditStatus, ClientRecord, TenantRecord

MAX_TARGET: Final = 4096
"""Characters of what an entry says that was changed, and how."""

Answer = dict[str, Any]
"""What an operation answers: plain types, with the names that the HTTP API uses."""


class OperationError(Exception):
    """The operation was refused, and nothing was changed. The message says what to do, and holds no secret."""


class UnknownError(OperationError):
    """There is no such thing, or not for whoever asks."""


class ForbiddenError(OperationError):
    """Whoever asks may not. ``needed``: the permissions that are missing."""

    def __init__(self, message: str, needed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.needed = needed


class ParameterError(OperationError):
    """What was asked for can never be done, whatever the store holds: its words are wrong."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A client that administers over HTTP."""

    context: ClientContext
    inbound: Inbound
    tenant_id: str | None
    """The tenant it acts on; None: all of them."""


def counted(number: int, noun: str) -> str:
    """``1 client``, ``2 clients``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Administration:
    """What the operations work on."""

    stores: Stores
    roles: Callable[[], Mapping[str, tuple[str, ...]]]
    """The roles of the configuration that is in force."""
    now: Callable[[], float]
    hasher: Hasher
    lockouts: Lockouts | None = None
    """Those of the running gateway, or of the store where none runs."""
    reload_keys: Callable[[], str] | None = None
    """Read the signing keys anew, and the ``kid`` of the one that signs; None: no server is running.

    Raises ConfigError where they cannot be used; the old ones stay.
    """
    on_roles_changed: Callable[[], None] = lambda: None
    """Told when what roles grant has changed, and that is durable."""
    on_pins_changed: Callable[[str], None] = lambda _upstream: None
    """Told when definitions of that upstream's tools were approved, and that is durable."""
    identity_rules: Callable[[], Sequence[IdentityRule]] = tuple
    """The rules that are in force for certificates."""
    redacted: Callable[[AuditEntry], AuditEntry] = lambda entry: entry
    """What of an entry may be written."""
    caller: Caller | None = None
    """Who asks, where that is a client; None: whoever owns the store, who may do everything."""
    reload: Callable[[], Awaitable[Sequence[str]]] | None = None
    """Read the files of the running gateway anew; what is wrong with them, in which case the old state stays."""
    second_factors: SecondFactors | None = None
    running_api_keys: ApiKeys | None = None
    """Those of the running gateway; None: no server is running."""
    readmit: Callable[[Inbound, ClientContext], None] = lambda _inbound, _context: None
    """Raises Refused where that caller would not be let in any more."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while something is changed."""
    hashing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a password is hashed: however many are set, most threads are for those who sign in."""

    @property
    def tenants(self) -> Tenants:
        """The tenants."""
        return Tenants(self.stores.collection(TENANTS))

    @property
    def role_book(self) -> Roles:
        """The roles of the configuration, and those that were made while running."""
        return Roles(self.roles(), self.stores.collection(ROLES))

    @property
    def api_keys(self) -> ApiKeys:
        """The API keys."""
        return self.running_api_keys or ApiKeys(
            self.stores.collection(API_KEYS), self.stores.clients, now=self.now
        )

    @property
    def tombstones(self) -> Tombstones:
        """What is left of erased clients."""
        return Tombstones.of(self.stores)

    def sees(self, tenant_id: str | None) -> bool:
        """Whether what belongs to that tenant is there for whoever asks. None: what belongs to all."""
        return self.caller is None or self.caller.tenant_id in {None, tenant_id}

    def known_client(self, client_id: str) -> ClientRecord:
        """A client that is there for whoever asks, erased or not. Raises UnknownError."""
        record = self.stores.clients.get(client_id)
        if record is not None and self.sees(record.tenant_id):
            return record
        seen = (client for client in self.stores.clients if self.sees(client.tenant_id))
        near = did_you_mean(client_id, [client.client_id for client in seen if client.erased_at is None])
        remedy = near if near.startswith("did") else "`ostiary clients list` shows all"
        raise UnknownError(f"there is no client of that name; {remedy}")

    def client(self, client_id: str) -> ClientRecord:
        """As ``known_client``, and not erased. Raises OperationError."""
        record = self.known_client(client_id)
        if record.erased_at is not None:
            raise OperationError(f"the client {client_id} was erased; add a client of another name")
        return record

    def changeable_client(self, client_id: str) -> ClientRecord:
        """As ``client``, to be changed: nobody changes one that may do more. Raises ForbiddenError, too."""
        record = self.client(client_id)
        self.require_whole_sign_in(client_id)
        self.require_grants(
            self.role_book.permissions(record).grants, "a client that may do more than oneself"
        )
        return record

    def require_whole_sign_in(self, client_id: str) -> None:
        """Nobody sees to their own account with an API key, or a token that was narrowed. Raises ForbiddenError."""
        context = None if self.caller is None else self.caller.context
        if context is None or context.client_id != client_id:
            return
        if context.api_key_id is not None or context.scope:
            raise ForbiddenError(
                "an API key, or a token that was narrowed, is not for the account itself: sign in without a scope"
            )

    def require_still_in(self) -> None:
        """Who waited may have lost it all meanwhile. Raises Refused."""
        if self.caller is not None:
            self.readmit(self.caller.inbound, self.caller.context)

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """One change at a time. Raises Refused where the caller would not be let in any more."""
        async with self.turn:
            self.require_still_in()
            yield

    def require_not_shut_out(self, *, client_id: str | None = None, tenant_id: str | None = None) -> None:
        """Nobody shuts themselves out: the way back would be the command line alone. Raises OperationError."""
        context = None if self.caller is None else self.caller.context
        if context is not None and (context.client_id == client_id or context.tenant_id == tenant_id):
            raise OperationError("that would shut you out; let another administrator do it")

    def require_another(self, client_id: str, remedy: str) -> None:
        """Nobody resets their own credentials: those are changed by who has the present ones. Raises ForbiddenError."""
        if self.caller is not None and self.caller.context.client_id == client_id:
            raise ForbiddenError(remedy)

    def tenant(self, tenant_id: str) -> TenantRecord:
        """A tenant that is there for whoever asks. Raises UnknownError."""
        record = self.tenants.get(tenant_id)
        if record is not None and self.sees(tenant_id):
            return record
        near = did_you_mean(
            tenant_id, [tenant.tenant_id for tenant in self.tenants if self.sees(tenant.tenant_id)]
        )
        remedy = near if near.startswith("did") else "`ostiary tenants add` makes one"
        raise UnknownError(f"there is no tenant {tenant_id[:80]!a}; {remedy}")

    def require_grants(self, permissions: Iterable[str], what: str) -> None:
        """Whoever asks holds all of these. ``what`` would otherwise be changed. Raises ForbiddenError."""
        if self.caller is None:
            return
        held = self.caller.context.permissions
        missing = sorted(permission for permission in set(permissions) if not held.cover((permission,)))
        if missing:
            raise ForbiddenError(
                f"you do not hold {', '.join(missing)[:300]}, and nobody grants, takes or changes what they do not"
                f" hold themselves ({what})",
                tuple(missing),
            )

    def entry(
        self,
        actor: str,
        operation: str,
        *,
        tenant_id: str,
        target: str,
        client_id: str | None = None,
        event: str = "admin_change",
        token_id: str | None = None,
        certificate_thumbprint: str | None = None,
    ) -> AuditEntry:
        """Who did what to which thing, now.

        ``client_id``, ``certificate_thumbprint``: whom and which certificate it is about, where no client asked for it.
        """
        caller = self.caller
        entry = AuditEntry(
            timestamp=self.timestamp(),
            event=event,
            status=AuditStatus.OK,
            client_id=client_id if caller is None else caller.context.client_id,
            tenant_id=tenant_id,
            method=operation,
            target=target,
            actor=actor if caller is None else None,
            token_id=token_id,
            certificate_thumbprint=certificate_thumbprint,
        )
        if caller is None:
            return entry
        return self.redacted(
            msgspec.structs.replace(
                entry,
                request_id=caller.inbound.request_id,
                address=caller.inbound.address,
                user_agent=caller.inbound.user_agent,
                certificate_thumbprint=caller.context.certificate_thumbprint,
                api_key_id=caller.context.api_key_id or msgspec.UNSET,
            )
        )

    def timestamp(self) -> str:
        """Now, as the records have it."""
        return rfc3339(self.now())


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class Operation(Generic[P]):
    """How an operation reads its parameters, and what it does."""

    parameters: type[P]
    run: Callable[[Administration, P, str], Awaitable[Answer]]
    changes: bool = True
    own_turn: bool = False
    """It waits for its turn itself, after what takes a while: others' changes need not wait for that."""

    def read(self, parameters: object) -> P:
        """The parameters, from plain types. Raises ParameterError."""
        try:
            return msgspec.convert(parameters, self.parameters)
        except msgspec.ValidationError as error:
            told = error.__cause__  # by the parameters themselves, where their shape is right
            raise ParameterError(f"wrong parameters: {error}" if told is None else str(told)) from None

    async def perform(self, admin: Administration, parameters: object, actor: str) -> Answer:
        """Check the parameters and run it; one change at a time. Raises OperationError, StoreError, Refused."""
        checked = self.read(parameters)
        if self.own_turn or not self.changes:
            return await self.run(admin, checked, actor)
        async with admin.changing():
            return await self.run(admin, checked, actor)
