"""The tokens, in memory by token_id, client, family and expiry; changes go through the journal.

Issuing, revoking and purging cost the same whatever the number of tokens: each index is a dictionary (``large``), and
expiry is a bucket of token ids for each second, with a heap of the seconds, so that a purge looks at nothing but what
expired.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from persistence.changes import TokensPut
from persistence.journal import Journal
from persistence.large import Keys, Ordered, Sharded
from persistence.records import TokenRecord

_SMALL_FAMILY: Final = 8


class _Few(msgspec.Struct, frozen=True, gc=False):
    """The tokens of a small family, in order of issue.

    The garbage collector knows nothing of such objects, so it does not look through a dictionary of them either: with
    tuples as values a dictionary comes back to what is looked through in each collection with each that is put in.
    """

    ids: tuple[str, ...] = ()


class JsonTokens:
    """``TokenStore`` of the json backend. A write is seen by readers once it is durable, before it is acknowledged."""

    def __init__(self, journal: Journal, *, on_purge: Callable[[], None]) -> None:
        self._journal = journal
        self._on_purge = on_purge
        self._tokens: Ordered[TokenRecord] = Ordered()
        self._by_client: dict[str, Keys] = {}
        self._by_family: Sharded[_Few | Keys] = Sharded()
        """Most have two tokens, but that of an API key has all that were had with it."""
        self._by_exp: dict[int, list[str]] = {}
        self._seconds: list[int] = []
        """The keys of ``_by_exp``, a heap."""
        self.changed = False
        """Whether something was applied or purged since the owner last set this to False."""

    def __len__(self) -> int:
        return len(self._tokens)

    def get(self, token_id: str) -> TokenRecord | None:
        """The token with that id, revoked ones included; None: unknown or purged."""
        return self._tokens.get(token_id)

    def of_client(self, client_id: str) -> Sequence[TokenRecord]:
        """Every token of that client, in order of issue."""
        return self._records(self._by_client.get(client_id))

    def of_family(self, family_id: str) -> Sequence[TokenRecord]:
        """Every token of that family, in order of issue."""
        family = self._by_family.get(family_id)
        return self._records(family.ids if isinstance(family, _Few) else family)

    def _records(self, token_ids: Iterable[str] | None) -> list[TokenRecord]:
        found = map(self._tokens.get, token_ids or ())
        return [record for record in found if record is not None]

    def __iter__(self) -> Iterator[TokenRecord]:
        return iter(self._tokens)

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
        put = self._tokens.put
        for record in records:
            before = put(record.token_id, record)
            if before is None:
                self._expires(record)
                self._link(record)
            else:
                self._moved(before, record)

    def lines(self) -> Iterator[bytes]:
        """The tokens as JSON, one a line, in order of issue, some at a time; the state may change in between.

        What changes meanwhile may be in it or not: the journal that follows has it in any case, and a put that is
        replayed twice is the same as once. So nothing is copied, and no step takes long.
        """
        return self._tokens.lines()

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
            of_client = self._by_client[record.client_id] = Keys()
        of_client.add(record.token_id)
        if record.family_id is None:
            return
        shard = self._by_family.shard(record.family_id)
        family = shard.get(record.family_id, _Few())
        if isinstance(family, _Few) and len(family.ids) < _SMALL_FAMILY:
            shard[record.family_id] = _Few((*family.ids, record.token_id))
            return
        if isinstance(family, _Few):
            family = shard[record.family_id] = Keys(family.ids)
        family.add(record.token_id)

    def _forget(self, record: TokenRecord) -> None:
        self._tokens.pop(record.token_id)
        self._unlink(record)

    def _unlink(self, record: TokenRecord) -> None:
        """Take a token out of the indexes by client and family."""
        of_client = self._by_client[record.client_id]
        of_client.remove(record.token_id)
        if not of_client:
            del self._by_client[record.client_id]
        if record.family_id is None:
            return
        shard = self._by_family.shard(record.family_id)
        family = shard[record.family_id]
        if isinstance(family, _Few):
            family = _Few(tuple(each for each in family.ids if each != record.token_id))
            shard[record.family_id] = family
            is_empty = not family.ids
        else:
            family.remove(record.token_id)
            is_empty = not family
        if is_empty:
            del shard[record.family_id]
