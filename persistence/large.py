"""Dictionaries that may hold millions of records, and never make the event loop wait for one step of theirs.

A plain dictionary copies itself when it grows, and a list of all keys is let go of in one step: with a million keys each
is a tenth of a second in which nobody gets a turn. Here a dictionary is many small ones, and the order is kept in blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

import msgspec

BLOCK: Final = 250
"""Records that are handled in one turn of the loop, a tenth of a millisecond."""

_SHARDS: Final = 256
_MASK: Final = _SHARDS - 1

_encode_lines = msgspec.json.Encoder().encode_lines

_PART: Final = 4096

V = TypeVar("V")


def in_lines(records: Sequence[object]) -> Iterator[bytes]:
    """The records as newline-terminated JSON, some at a time."""
    for start in range(0, len(records), BLOCK):
        yield _encode_lines(records[start : start + BLOCK])


async def in_turns(values: Iterable[V]) -> AsyncIterator[V]:
    """The same values, with a turn of the event loop for others now and then."""
    for number, value in enumerate(values, 1):
        yield value
        if number % BLOCK == 0:
            await asyncio.sleep(0)


class Keys:
    """A set of texts, in order of insertion. Those that are removed are mostly the oldest."""

    __slots__ = ("_parts",)

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._parts: list[dict[str, None]] = [dict.fromkeys(keys)]

    def __bool__(self) -> bool:
        return any(self._parts)

    def __iter__(self) -> Iterator[str]:
        return (key for part in self._parts for key in part)

    def add(self, key: str) -> None:
        """Put in one that is not in it."""
        if len(self._parts[-1]) >= _PART:
            self._parts.append({})
        self._parts[-1][key] = None

    def remove(self, key: str) -> None:
        """Take one out, where it is in it."""
        for part in self._parts:
            if key in part:
                del part[key]
                if not part and len(self._parts) > 1:
                    self._parts.remove(part)
                return


class Sharded(Generic[V]):
    """A dictionary of texts, without an order."""

    __slots__ = ("_shards",)

    def __init__(self) -> None:
        self._shards: tuple[dict[str, V], ...] = tuple({} for _ in range(_SHARDS))

    def get(self, key: str) -> V | None:
        """The value of that key."""
        return self._shards[hash(key) & _MASK].get(key)

    def shard(self, key: str) -> dict[str, V]:
        """The small dictionary that this key belongs into, to be used as one likes."""
        return self._shards[hash(key) & _MASK]


class Ordered(Generic[V]):
    """A dictionary of texts, in order of insertion. A key that is removed and put again soon may keep its old place."""

    def __init__(self) -> None:
        self._values: Sharded[V | None] = Sharded()
        """None: removed, but the key still stands in a block."""
        self._blocks: list[list[str]] = [[]]
        """All keys in order, and some that were removed."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, key: str) -> V | None:
        """The value of that key."""
        return self._values.get(key)

    def put(self, key: str, value: V) -> V | None:
        """Insert or replace; the value before."""
        shard = self._values.shard(key)
        before = shard.get(key)
        if before is None:
            self._count += 1
            if key not in shard:
                self._append(key)
        shard[key] = value
        return before

    def pop(self, key: str) -> V | None:
        """Remove; the value that it had."""
        shard = self._values.shard(key)
        before = shard.get(key)
        if before is not None:
            shard[key] = None
            self._count -= 1
        return before

    def __iter__(self) -> Iterator[V]:
        """The values in order; of those that are put or removed meanwhile, the new ones are left out and the gone ones, too."""
        for block in [tuple(block) for block in self._blocks]:
            yield from self._live(block)

    def lines(self) -> Iterator[bytes]:
        """The values as newline-terminated JSON, in order, a block at a time; they may change between two blocks.

        What changes meanwhile may be in it or not. Keys that were removed are let go of.
        """
        last: list[str] | None = None
        for block in list(self._blocks):
            live = self._live(block)
            if len(live) < len(block):
                self._tidy(block)
            if last is not None and len(last) + len(block) <= BLOCK:
                last += block
                block.clear()
            else:
                last = block
            yield _encode_lines(live)
        self._blocks = [block for block in self._blocks if block] or [[]]

    def _live(self, block: Sequence[str]) -> list[V]:
        get = self._values.get
        return [value for key in block if (value := get(key)) is not None]

    def _tidy(self, block: list[str]) -> None:
        """Forget the keys that were removed."""
        kept: list[str] = []
        for key in block:
            shard = self._values.shard(key)
            if shard[key] is None:
                del shard[key]
            else:
                kept.append(key)
        block[:] = kept

    def _append(self, key: str) -> None:
        if len(self._blocks[-1]) >= BLOCK:
            self._blocks.append([])
        self._blocks[-1].append(key)
