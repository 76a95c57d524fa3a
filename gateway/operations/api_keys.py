"""The administrative operations on API keys: what their owners do at ``/auth/api-keys``, by whoever administers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.clock import rfc3339
from gateway.config.shapes import parse_duration
from gateway.identity.api_keys import (
    DEFAULT_LIFETIME,
    DEFAULT_OVERLAP,
    MAX_LIFETIME,
    MAX_OVERLAP,
    Recorded,
    granted,
)
from gateway.identity.roles import requested_scope
from gateway.model import Deny
from gateway.operations.administration import Administration, Answer, Operation, OperationError, UnknownError
from gateway.operations.pages import page_of
from gateway.operations.parameters import MAX_PAGE, Parameters, check_limit, check_permissions
from persistence.account_records import ApiKeyRecord
from persistence.records import API_KEYS, AuditEntry, ClientRecord

_MAX_NAME: Final = 128
_MAX_SCOPES: Final = 64


class AddApiKey(Parameters, frozen=True, kw_only=True):
    """``expires_in``: seconds, or text such as ``"30d"``. No scopes: all that the client may do at the time."""

    client_id: str
    name: str
    scopes: tuple[str, ...] = ()
    expires_in: int | str = int(DEFAULT_LIFETIME)

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= _MAX_NAME:
            raise ValueError(f"an API key's name has 1 to {_MAX_NAME} characters")
        if len(self.scopes) > _MAX_SCOPES:
            raise ValueError(f"an API key has {_MAX_SCOPES} scopes at most")
        check_permissions(self.scopes)
        _ = self.lifetime

    @property
    def lifetime(self) -> float:
        """In seconds. Raises ValueError."""
        return _seconds("expires_in", self.expires_in, at_least=1, at_most=MAX_LIFETIME)


class ListApiKeys(Parameters, frozen=True, kw_only=True):
    """A page of the keys of one client, or of all, from the one after ``cursor``."""

    client_id: str | None = None
    limit: int = MAX_PAGE
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)


class OneApiKey(Parameters, frozen=True, kw_only=True):
    """An API key, by its id."""

    key_id: str


class RotateApiKey(OneApiKey, frozen=True, kw_only=True):
    """``expires_in`` of the new key, and ``overlap``, for which the old one is good beside it."""

    expires_in: int | str = int(DEFAULT_LIFETIME)
    overlap: int | str = int(DEFAULT_OVERLAP)

    def __post_init__(self) -> None:
        _ = self.lifetime, self.beside

    @property
    def lifetime(self) -> float:
        """Of the new key, in seconds. Raises ValueError."""
        return _seconds("expires_in", self.expires_in, at_least=1, at_most=MAX_LIFETIME)

    @property
    def beside(self) -> float:
        """For how many seconds both are good. Raises ValueError."""
        return _seconds("overlap", self.overlap, at_least=0, at_most=MAX_OVERLAP)


async def _add(admin: Administration, wanted: AddApiKey, actor: str) -> Answer:
    client = admin.changeable_client(wanted.client_id)
    scope = requested_scope(" ".join(wanted.scopes), admin.role_book.permissions(client))
    if isinstance(scope, Deny):
        remedy = f"`ostiary clients show {client.client_id}` shows what it may do"
        raise OperationError(
            f"the client {client.client_id} does not have all of these scopes itself; {remedy}"
        )
    made = await admin.api_keys.make(
        client,
        wanted.name,
        tuple(scope.split()),
        wanted.lifetime,
        _recorded(admin, client, "api_keys.add", "", actor),
    )
    return _told(made)


async def _list(admin: Administration, wanted: ListApiKeys, _actor: str) -> Answer:
    keys = admin.stores.collection(API_KEYS)
    if wanted.client_id is not None:
        admin.known_client(wanted.client_id)
    found = keys if wanted.client_id is None else keys.where("client_id", wanted.client_id)
    now = admin.now()
    page, cursor = await page_of(
        found,
        lambda key: key.key_id,
        wanted=lambda key: admin.sees(key.tenant_id) and (key.exp is None or key.exp > now),
        after=wanted.cursor,
        limit=wanted.limit,
    )
    return {"api_keys": [_shown(key) for key in page], "next_cursor": cursor}


async def _show(admin: Administration, wanted: OneApiKey, _actor: str) -> Answer:
    return {"key": _shown(_known(admin, wanted.key_id))}


async def _rotate(admin: Administration, wanted: RotateApiKey, actor: str) -> Answer:
    old = _known(admin, wanted.key_id)
    client = admin.changeable_client(old.client_id)
    made = await admin.api_keys.rotate(
        client,
        old.key_id,
        lifetime=wanted.lifetime,
        overlap=wanted.beside,
        recorded=_recorded(admin, client, "api_keys.rotate", f"{old.key_id}: ", actor),
    )
    answer = _told(made)
    if not admin.api_keys.is_current(old.key_id):
        await _end_tokens(admin, old.key_id)
    return answer


async def _revoke(admin: Administration, wanted: OneApiKey, actor: str) -> Answer:
    key = _known(admin, wanted.key_id)
    client = admin.changeable_client(key.client_id)
    await admin.stores.audit.append(_entry(admin, client, "api_keys.revoke", key.key_id, actor))
    await admin.api_keys.remove(key)
    return {"key": _shown(key), "revoked": await _end_tokens(admin, key.key_id)}


def _known(admin: Administration, key_id: str) -> ApiKeyRecord:
    """A key that is there for whoever asks. Raises UnknownError."""
    key = admin.stores.collection(API_KEYS).get(key_id)
    if key is None or not admin.sees(key.tenant_id):
        raise UnknownError("there is no such API key, or it has expired; `ostiary api-keys list` shows all")
    return key


def _recorded(
    admin: Administration, client: ClientRecord, operation: str, before: str, actor: str
) -> Recorded:
    """Writes the entry, with what the new key grants after ``before``, once it is sure that it will be made."""

    async def record(key: ApiKeyRecord) -> None:
        target = f"{before}{granted(key)}"
        await admin.stores.audit.append(_entry(admin, client, operation, target, actor))

    return record


def _entry(
    admin: Administration, client: ClientRecord, operation: str, target: str, actor: str
) -> AuditEntry:
    return admin.entry(
        actor, operation, client_id=client.client_id, tenant_id=client.tenant_id, target=target
    )


async def _end_tokens(admin: Administration, key_id: str) -> int:
    """End the tokens that were had with the key; how many were live."""
    moment, tokens, count = admin.timestamp(), admin.stores.tokens, 0
    # Again until none is left: another may have been issued while the first ones were written.
    while live := [each for each in tokens.of_family(key_id) if each.revoked_at is None]:
        await tokens.put(*(msgspec.structs.replace(each, revoked_at=moment) for each in live))
        count += sum(each.exp > admin.now() for each in live)
    return count


def _told(made: tuple[str, ApiKeyRecord] | Deny) -> Answer:
    """The new key, this once. Raises OperationError."""
    if isinstance(made, Deny):
        raise OperationError(made.detail[:1].lower() + made.detail[1:].rstrip("."))
    text, key = made
    return {"api_key": text, "key": _shown(key)}


def _shown(key: ApiKeyRecord) -> Answer:
    return {
        "key_id": key.key_id,
        "client_id": key.client_id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created_at": key.created_at,
        "expires_at": None if key.exp is None else rfc3339(key.exp),
        "last_used_at": key.last_used_at,
        "successor_id": key.successor_id,
    }


def _seconds(what: str, wanted: int | str, *, at_least: int, at_most: float) -> float:
    """Raises ValueError."""
    seconds = parse_duration(wanted) if isinstance(wanted, str) else wanted
    if seconds is None or not at_least <= seconds <= at_most:
        raise ValueError(
            f'{what} is seconds, or text such as "30d": here {at_least} s to {at_most / 86400:.0f} days'
        )
    return seconds


API_KEY_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "api_keys.add": Operation(AddApiKey, _add),
    "api_keys.list": Operation(ListApiKeys, _list, changes=False),
    "api_keys.show": Operation(OneApiKey, _show, changes=False),
    "api_keys.rotate": Operation(RotateApiKey, _rotate),
    "api_keys.revoke": Operation(OneApiKey, _revoke),
}
