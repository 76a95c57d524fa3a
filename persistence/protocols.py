"""What every store promises, whatever its backend.

Reads are synchronous: every store holds its live records in memory, because they are asked for on every request.
Writes are coroutines: when one returns, the write is durable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from msgspec import UNSET, UnsetType

from persistence.records import (
    AuditEntry,
    AuditPage,
    AuditQuery,
    AuditStatus,
    ClientRecord,
    Kind,
    RecordT,
    SealedSegment,
    TokenRecord,
)


class ClientStore(Protocol):
    """The clients."""

    def get(self, client_id: str) -> ClientRecord | None:
        """The client of that name, disabled and erased ones included."""

    def by_certificate(self, certificate_id: str) -> ClientRecord | None:
        """The client whose certificates yield ``certificate_id``."""

    def __iter__(self) -> Iterator[ClientRecord]:
        """All clients, by client_id."""

    async def put(self, record: ClientRecord) -> None:
        """Insert or replace. Raises StoreError where the write is not durable, or the certificate id is taken."""

    async def remove(self, client_id: str) -> None:
        """Forget the client; its certificate id is anybody's again. Raises StoreError."""


class TokenStore(Protocol):
    """The tokens that have not expired."""

    def get(self, token_id: str) -> TokenRecord | None:
        """The token with that id, revoked ones included; None: unknown or purged."""

    def of_client(self, client_id: str) -> Sequence[TokenRecord]:
        """Every token of that client."""

    def of_family(self, family_id: str) -> Sequence[TokenRecord]:
        """Every token of that family."""

    def __iter__(self) -> Iterator[TokenRecord]:
        """All tokens, in order of issue."""

    async def put(self, *records: TokenRecord) -> None:
        """Insert or replace all of them as one write."""

    def purge(self, now: float, at_most: int | None = None) -> int:
        """Forget those that expired before ``now``; how many. (Derivable from ``exp``: nothing to make durable.)

        ``at_most``: so many in one call, which is then to be repeated until it says less.
        """


class Collection(Protocol[RecordT]):
    """The records of one kind."""

    def get(self, key: str) -> RecordT | None:
        """The record with that key."""

    def where(self, index: str, value: str) -> Sequence[RecordT]:
        """The records whose field ``index``, one of the kind's indexes, is ``value``; in order of insertion."""

    def __iter__(self) -> Iterator[RecordT]:
        """All records, in order of insertion."""

    def __len__(self) -> int:
        """How many there are."""

    async def put(self, *records: RecordT) -> None:
        """Insert or replace all of them as one write. Raises StoreError where it is not durable."""

    async def remove(self, *keys: str) -> None:
        """Remove the records with these keys as one write. Raises StoreError where it is not durable."""

    def put_soon(self, *records: RecordT) -> None:
        """As ``put``, without waiting for the disk: for what may be lost. Raises StoreError."""

    def remove_soon(self, *keys: str) -> None:
        """As ``remove``, without waiting for the disk. Raises StoreError."""


class Intent(Protocol):
    """An action about to be forwarded, already durable in the audit."""

    def finish(
        self,
        status: AuditStatus,
        *,
        timestamp: str,
        duration_ms: float,
        reason: str | None = None,
        response_bytes: int | UnsetType = UNSET,
    ) -> None:
        """Hand the outcome to the journal. Once only. Raises StoreError where the journal takes no more writes."""


class AuditStore(Protocol):
    """The audit: append-only."""

    async def append(self, entry: AuditEntry) -> None:
        """Add an entry; durable on return. Raises StoreError."""

    def has_room(self) -> bool:
        """Whether there is more room than what is kept for known callers: else what anybody can cause is not entered."""

    def append_soon(self, entry: AuditEntry) -> None:
        """Hand an entry to the journal without waiting for the disk. Raises StoreError."""

    async def begin(self, entry: AuditEntry) -> Intent:
        """Make the intent durable. If no outcome ever follows, it becomes an entry ``error``, ``interrupted``."""

    async def query(self, query: AuditQuery) -> AuditPage:
        """Entries, newest first. Raises ValueError for a cursor that this store did not give."""

    async def follow(self, cursor: str | None, limit: int) -> AuditPage:
        """The first ``limit`` entries behind ``cursor``, oldest first; without one, the newest ones.

        ``next_cursor`` is never None: with it, ask for what comes. Raises ValueError for a cursor that is not one of this
        audit, StoreError where it cannot be read.
        """

    async def checkpoint(self) -> bytes:
        """The newest signed checkpoint, a JSON document."""

    def prunable(self, before: str) -> Sequence[SealedSegment]:
        """The segments that ``prune`` would remove. Raises ValueError where ``before`` is not RFC 3339."""

    async def prune(self, before: str) -> Sequence[SealedSegment]:
        """Remove the oldest segments, as far as all that is in them is older than ``before``; which those were.

        Raises StoreError, and ValueError as ``prunable`` does.
        """

    def held_back(self, before: str) -> tuple[SealedSegment, int] | None:
        """The segment that stays, and how many after it that are old enough stay for its sake; None: none does.

        Raises ValueError as ``prunable`` does.
        """

    async def erase(self, entry: AuditEntry, client_id: str) -> int:
        """Take what identifies that client out of all entries so far; how many values. ``entry`` says so: ``erased``.

        The entries go on to be told apart, as those of ``erased-N``, N being the number of that entry. Raises StoreError.
        """

    async def compress(self, most: int) -> tuple[int, int]:
        """Compress up to ``most`` sealed segments; how many were, and how many are left. Raises StoreError."""


class Stores(Protocol):
    """All stores of one gateway, opened together and closed together."""

    @property
    def clients(self) -> ClientStore:
        """The clients."""

    @property
    def tokens(self) -> TokenStore:
        """The tokens."""

    @property
    def audit(self) -> AuditStore:
        """The audit."""

    def collection(self, kind: Kind[RecordT]) -> Collection[RecordT]:
        """The records of that kind."""

    @property
    def healthy(self) -> bool:
        """Whether writes are being taken."""

    async def close(self) -> None:
        """Write the last checkpoint and let go of the files."""
