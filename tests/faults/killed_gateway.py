"""The gateway, ended by SIGKILL at a chosen system call of its store.

python tests/faults/killed_gateway.py CALL NUMBER before|after serve --config FILE
python tests/faults/killed_gateway.py never 0 after serve --config FILE

It is the real program with another ``System``: what ``CALL`` does is done or not done, then the process is gone. Its
checkpoints follow each other at once and its audit segments are small, so that the instants are of every kind. With
``never`` it is as it always is, and somebody else kills it. Either way the control socket knows three more operations, which
put, remove and list records of a collection.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gateway.app
import gateway.operations.table
from gateway.cli import main
from gateway.operations.administration import Administration, Answer, Operation
from gateway.operations.parameters import Parameters
from persistence import JsonStores
from persistence.files import System
from persistence.records import REVOKED_CERTIFICATES, RevokedCertificate


class Killing(System):
    """Ends the process at the ``number``-th call of that name."""

    def __init__(self, call: str, number: int, when: str) -> None:
        self._left = number
        self._when = when
        setattr(self, call, partial(self._counted, getattr(self, call)))

    def _counted(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self._left -= 1
        if self._left == 0 and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(*arguments)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


class Nothing(Parameters):
    """What an operation without parameters takes."""


class Record(Parameters):
    """One record, and the value that it is found by."""

    name: str
    value: str | None = None


async def _put(admin: Administration, wanted: Record, _actor: str) -> Answer:
    record = RevokedCertificate(
        revocation_id=wanted.name, fingerprint=wanted.value, revoked_at=admin.timestamp()
    )
    await admin.stores.collection(REVOKED_CERTIFICATES).put(record)
    return {}


async def _remove(admin: Administration, wanted: Record, _actor: str) -> Answer:
    await admin.stores.collection(REVOKED_CERTIFICATES).remove(wanted.name)
    return {}


async def _list(admin: Administration, _wanted: Nothing, _actor: str) -> Answer:
    kept = admin.stores.collection(REVOKED_CERTIFICATES)
    found = {
        each.revocation_id: value
        for value in ("first", "second")
        for each in kept.where("fingerprint", value)
    }
    return {
        "records": found if len(found) == len(kept) else {each.revocation_id: "not indexed" for each in kept}
    }


if __name__ == "__main__":
    call, number, when, *words = sys.argv[1:]
    gateway.operations.table.OPERATIONS |= {
        "records.put": Operation(Record, _put),
        "records.remove": Operation(Record, _remove),
        "records.list": Operation(Nothing, _list, changes=False),
    }
    if call != "never":
        gateway.app.open_stores = partial(
            JsonStores.open, system=Killing(call, int(number), when), pause=0.01, segment_bytes=200_000
        )
    sys.exit(main(words))
