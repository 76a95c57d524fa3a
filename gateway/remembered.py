"""A bounded memory for what is costly to find out again. What it holds is checked by its owner on every use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """At most ``capacity`` values by key; the one unused for longest is forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, which counts as used now; None: not known."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember it, in place of an earlier one."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def forget(self, key: K) -> V | None:
        """Take it out; None: it was not known."""
        return self._values.pop(key, None)

    def drop(self, useless: Callable[[V], bool]) -> None:
        """Forget every value that is ``useless``."""
        for key in [key for key, value in self._values.items() if useless(value)]:
            del self._values[key]

    def any(self, matches: Callable[[V], bool]) -> bool:
        """Whether a value ``matches``."""
        return any(matches(value) for value in self._values.values())

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)
