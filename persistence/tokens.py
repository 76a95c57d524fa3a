"""The tokens, in memory by token_id, client, family and expiry; changes go through the journal.

Issuing, revoking and purging cost the same whatever the number of tokens: each index is a dictionary, and expiry is a
bucket of token ids for each second, with a heap of the seconds, so that a purge looks at nothing but what expired.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

from persistence.changes import TokensPut
from persistence.checkpoint import SLICE, encode_lines
from persistence.journal import Journal
from persistence.records import TokenRecord


class JsonTokens:
    """``TokenStore`` of the json backend. A write is seen by readers once it is durable, before it is acknowledged."""

    def __init__(self, journal: Journal, *, on_purge: Callable[[], None]) -> None:
        self._journal = journal
        self._on_purge = on_purge
        self._tokens: dict[str, TokenRecord] = {}
        self._by_client: dict[str, dict[str, None]] = {}
        self._by_family: dict[str, tuple[str, ...]] = {}
        """Tuples, which the garbage collector does not look into again and again: most families have two tokens."""
        self._by_exp: dict[int, list[str]] = {}
        self._seconds: list[int] = []
        """The keys of ``_by_exp``, a heap."""
        self._issued: list[str] = []
        """Token ids in order of issue, purged ones included until the next checkpoint."""
        self.changed = False
        """Whether something was applied or purged since the owner last set this to False."""

    def __len__(self) -> int:
        return len(self._tokens)

    def get(self, token_id: str) -> TokenRecord | None:
        """The token with that id, revoked ones included; None: unknown or purged."""
        return self._tokens.get(token_id)

    def of_client(self, client_id: str) -> Sequence[TokenRecord]:
        """Every token of that client, in order of issue."""
        return [self._tokens[token_id] for token_id in self._by_client.get(client_id, ())]

    def of_family(self, family_id: str) -> Sequence[TokenRecord]:
        """Every token of that family, in order of issue."""
        return [self._tokens[token_id] for token_id in self._by_family.get(family_id, ())]

    def __iter__(self) -> Iterator[TokenRecord]:
        return iter(list(self._tokens.values()))

    async def put(self, *records: TokenRecord) -> None:
        """Insert or replace all of them as one write. Raises StoreError where it is not durable."""
        if records:
            await self._journal.append(TokensPut(records))

    def purge(self, now: float, at_most: int | None = None) -> int:
        """Forget those that expired before ``now``; how many. ``at_most``: so many, to be called again for the rest."""
        limit = len(self._tokens) if at_most is None else at_most
        purged = 0
        while self._seconds and self._seconds[0] < now and purged < limit:
            second = self._seconds[0]
            bucket = self._by_exp[second]
            while bucket and purged < limit:
                record = self._tokens.get(bucket.pop())
                if record is not None and record.exp == second:
                    self._forget(record)
                    purged += 1
            if not bucket:
                del self._by_exp[heapq.heappop(self._seconds)]
        if purged:
            self.changed = True
            self._on_purge()
        return purged

    def apply(self, change: TokensPut) -> None:
        """Take over what is durable."""
        self.load(change.records)
        self.changed = True

    def load(self, records: Iterable[TokenRecord]) -> None:
        """Take over records in order of issue."""
        for record in records:
            before = self._tokens.get(record.token_id)
            self._tokens[record.token_id] = record
            if before is None:
                self._issued.append(record.token_id)
                self._expires(record)
                self._link(record)
            else:
                self._moved(before, record)

    def lines(self) -> Iterator[bytes]:
        """The tokens as JSON, one a line, in order of issue, a slice at a time; the state may change between slices.

        What changes meanwhile may be in it or not: the journal that follows has it in any case, and a put that is
        replayed twice is the same as once. So nothing is copied, and no slice takes long.
        """
        live: list[str] = []
        end = len(self._issued)
        for start in range(0, end, SLICE):
            found = [
                record
                for token_id in self._issued[start : min(start + SLICE, end)]
                if (record := self._tokens.get(token_id)) is not None
            ]
            live.extend(record.token_id for record in found)
            yield encode_lines(found)
        live.extend(self._issued[end:])
        self._issued = live

    def _moved(self, before: TokenRecord, record: TokenRecord) -> None:
        if before.exp != record.exp:
            self._expires(record)
        if (before.client_id, before.family_id) != (record.client_id, record.family_id):
            self._unlink(before)
            self._link(record)

    def _expires(self, record: TokenRecord) -> None:
        bucket = self._by_exp.get(record.exp)
        if bucket is None:
            self._by_exp[record.exp] = [record.token_id]
            heapq.heappush(self._seconds, record.exp)
        else:
            bucket.append(record.token_id)

    def _link(self, record: TokenRecord) -> None:
        """Enter a token into the indexes by client and family."""
        of_client = self._by_client.get(record.client_id)
        if of_client is None:
            self._by_client[record.client_id] = {record.token_id: None}
        else:
            of_client[record.token_id] = None
        if record.family_id is None:
            return
        self._by_family[record.family_id] = (*self._by_family.get(record.family_id, ()), record.token_id)

    def _forget(self, record: TokenRecord) -> None:
        del self._tokens[record.token_id]
        self._unlink(record)

    def _unlink(self, record: TokenRecord) -> None:
        """Take a token out of the indexes by client and family."""
        of_client = self._by_client[record.client_id]
        del of_client[record.token_id]
        if not of_client:
            del self._by_client[record.client_id]
        if record.family_id is None:
            return
        of_family = tuple(t for t in self._by_family[record.family_id] if t != record.token_id)
        if of_family:
            self._by_family[record.family_id] = of_family
        else:
            del self._by_family[record.family_id]
