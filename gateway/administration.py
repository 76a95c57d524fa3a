"""What every administrative operation works on, and how one is run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from gateway.clock import rfc3339
from gateway.config_shapes import did_you_mean
from gateway.parameters import Parameters
from persistence.records import ClientRecord, Stores

Answer = dict[str, Any]
"""What an operation answers: plain types, with the names that the HTTP API uses."""


class OperationError(Exception):
    """The operation was refused, and nothing was changed. The message says what to do, and holds no secret."""


class ParameterError(OperationError):
    """What was asked for can never be done, whatever the store holds: its words are wrong."""


@dataclass(frozen=True, slots=True)
class Administration:
    """What the operations work on.

    ``hash_password`` raises ValueError, with the rule that is broken, for a password that must not be used.
    ``unlock`` ends a lock-out and says whether there was one; None: no server is running, so nobody is locked out.
    """

    stores: Stores
    roles: Callable[[], Mapping[str, tuple[str, ...]]]
    """The roles of the configuration that is in force."""
    now: Callable[[], float]
    hash_password: Callable[[str], Awaitable[str]]
    unlock: Callable[[str], bool] | None = None
    reload_keys: Callable[[], str] | None = None
    """Read the signing keys anew, and the ``kid`` of the one that signs; None: no server is running.

    Raises ConfigError where they cannot be used; the old ones stay.
    """
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while something is changed."""

    def client(self, client_id: str) -> ClientRecord:
        """A client that is there and not erased, or OperationError."""
        record = self.stores.clients.get(client_id)
        if record is None:
            living = [client.client_id for client in self.stores.clients if client.erased_at is None]
            near = did_you_mean(client_id, living)
            remedy = near if near.startswith("did") else "`ostiary clients list` shows all"
            raise OperationError(f"there is no client of that name; {remedy}")
        if record.erased_at is not None:
            raise OperationError(f"{client_id} was erased; add a client of another name")
        return record

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

    def read(self, parameters: object) -> P:
        """The parameters, from plain types. Raises ParameterError."""
        try:
            return msgspec.convert(parameters, self.parameters)
        except msgspec.ValidationError as error:
            told = error.__cause__  # by the parameters themselves, where their shape is right
            raise ParameterError(f"wrong parameters: {error}" if told is None else str(told)) from None

    async def perform(self, admin: Administration, parameters: object, actor: str) -> Answer:
        """Check the parameters and run it; one change at a time. Raises OperationError, StoreError."""
        checked = self.read(parameters)
        if not self.changes:
            return await self.run(admin, checked, actor)
        async with admin.turn:
            return await self.run(admin, checked, actor)
