"""One that writes records of a collection over the control socket, and knows which of them must be there."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from gateway.operations.administration import OperationError
from gateway.operations.control import NoServer, ask


class Keeper:
    """Puts, replaces and removes records, one write after the other, until the gateway is gone."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._names = (f"r{number}" for number in itertools.count())
        self._allowed: dict[str, set[str | None]] = {}
        """By record, the values that it may have; None: it is not there. Two where a write was not answered."""
        self.answered = 0
        """Writes that were acknowledged."""

    def work(self) -> None:
        """Until the gateway goes away."""
        for number, name in enumerate(self._names):
            writes: list[str | None] = ["first", "second"] if number % 3 else ["first", "second", None]
            for value in writes:
                try:
                    self._write(name, value)
                except (OSError, NoServer, TimeoutError):
                    return

    def _write(self, name: str, value: str | None) -> None:
        """Raises OSError, NoServer or TimeoutError where there was no answer."""
        before = self._allowed.get(name, {None})
        self._allowed[name] = before | {value}
        operation = "records.remove" if value is None else "records.put"
        asyncio.run(ask(self._store, operation, {"name": name, "value": value}))
        self._allowed[name] = {value}
        self.answered += 1

    def wrong(self) -> list[str]:
        """What the running gateway has otherwise than it was told. What it has is what it must have from now on.

        Raises OSError, NoServer or TimeoutError where there is no answer.
        """
        try:
            found: dict[str, str] = asyncio.run(ask(self._store, "records.list", {}))["records"]
        except OperationError as error:
            return [str(error)]
        wrong = [
            f"record {name} is {found.get(name)}, not {allowed}"
            for name, allowed in self._allowed.items()
            if found.get(name) not in allowed
        ]
        wrong += [f"record {name} was never written" for name in found.keys() - self._allowed.keys()]
        self._allowed = {name: {found.get(name)} for name in self._allowed}
        return wrong
