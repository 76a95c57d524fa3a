"""Records of one kind, in memory by their key; changes go through the journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic

import msgspec

from persistence.changes import CollectionChanged
from persistence.journal import Journal
from persistence.large import Ordered, Sharded
from persistence.records import Kind, RecordT


class JsonCollection(Generic[RecordT]):
    """``Collection`` of the json backend. A write is seen by readers once it is durable."""

    def __init__(self, kind: Kind[RecordT], journal: Journal) -> None:
        self.kind = kind
        self._journal = journal
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind.record).decode
        self._records: Ordered[RecordT] = Ordered()
        self._indexes: dict[str, Sharded[dict[str, None]]] = {index: Sharded() for index in kind.indexes}
        """By field and value: the keys, in order of insertion."""
        self.changed = False
        """Whether something was applied since the owner last set this to False."""

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RecordT]:
        return iter(self._records)

    def get(self, key: str) -> RecordT | None:
        """The record with that key."""
        return self._records.get(key)

    def where(self, index: str, value: str) -> Sequence[RecordT]:
        """The records whose field ``index`` is ``value``. Raises KeyError where the kind has no such index."""
        found = map(self._records.get, self._indexes[index].get(value) or ())
        return [record for record in found if record is not None]

    async def put(self, *records: RecordT) -> None:
        """Insert or replace all of them as one write. Raises StoreError where it is not durable."""
        if records:
            await self._journal.append(self._change(records))

    async def remove(self, *keys: str) -> None:
        """Remove the records with these keys as one write. Raises StoreError where it is not durable."""
        if keys:
            await self._journal.append(CollectionChanged(self.kind.name, remove=keys))

    def put_soon(self, *records: RecordT) -> None:
        """As ``put``, without waiting for the disk. Raises StoreError where the journal takes no more writes."""
        if records:
            self._journal.append_soon(self._change(records))

    def remove_soon(self, *keys: str) -> None:
        """As ``remove``, without waiting for the disk. Raises StoreError where the journal takes no more writes."""
        if keys:
            self._journal.append_soon(CollectionChanged(self.kind.name, remove=keys))

    def _change(self, records: Sequence[RecordT]) -> CollectionChanged:
        return CollectionChanged(self.kind.name, tuple(msgspec.Raw(self._encode(each)) for each in records))

    def apply(self, change: CollectionChanged) -> None:
        """Take over what is durable. Raises msgspec.ValidationError where it is not of this kind."""
        self.load(self._decode(raw) for raw in change.put)
        for key in change.remove:
            self._forget(key)
        self.changed = True

    def load(self, records: Iterable[RecordT]) -> None:
        """Take over what was read."""
        for record in records:
            key: str = getattr(record, self.kind.key)
            before = self._records.put(key, record)
            for index in self._indexes:
                old, new = getattr(before, index, None), getattr(record, index)
                if before is not None and old != new:
                    self._unlist(index, old, key)
                if new is not None:
                    self._indexes[index].shard(new).setdefault(new, {})[key] = None

    def lines(self) -> Iterator[bytes]:
        """The records as newline-terminated JSON, some at a time; as ``JsonTokens.lines``."""
        return self._records.lines()

    def _forget(self, key: str) -> None:
        record = self._records.pop(key)
        if record is not None:
            for index in self._indexes:
                self._unlist(index, getattr(record, index), key)

    def _unlist(self, index: str, value: str | None, key: str) -> None:
        if value is None:
            return
        shard = self._indexes[index].shard(value)
        keys = shard.get(value, {})
        keys.pop(key, None)
        if not keys:
            shard.pop(value, None)
