"""The journal: where every change is made durable before it is acknowledged and before anybody can read it.

There is one journal for all parts of the store, a file for each generation (``journal-000000042.log``, its layout is in
``frames``). One task writes it: it takes all changes that wait, writes them as one frame with one write and one
fdatasync in one hop to a thread, has them applied to the state in memory, and acknowledges them. Before it takes them it
gives way to whoever is about to hand over more; changes that nobody waits for go with the next batch that somebody waits
for, or after SOON_SECONDS.

A write or fdatasync that fails ends the generation: the changes that waited get a StoreError and are not applied, and
every later one is refused. The fdatasync is not repeated, because the kernel may already have dropped the pages that it
could not write: that a second one succeeds says nothing. The owner goes over to a new generation with ``restart``, writes
everything down anew from memory, and only then lets the journal take changes again with ``resume``. The first change of
the new generation says where the one that failed ends, so that what was not acknowledged does not come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from persistence import frames
from persistence.changes import Bases, Change
from persistence.checkpoint import UNREADABLE
from persistence.disk_thread import DiskThread
from persistence.files import RESTORE, Folder, write_all
from persistence.records import StoreError

log = logging.getLogger("ostiary.storage")

SOON_SECONDS: Final = 0.002
"""How long a change that nobody waits for may wait for others to be written with."""
QUIET_TURNS: Final = 3
"""Before a batch is written, others that hand over changes get turns of the event loop: until so many brought nobody."""
MOST_TURNS: Final = 24
"""And at most so many."""

_NAME: Final = re.compile(r"journal-(\d{9})\.log")


def journal_name(generation: int) -> str:
    """The file name of that generation."""
    return f"journal-{generation:09d}.log"


def journal_generation(name: str) -> int | None:
    """The generation of a journal's file name; None: that is no journal's name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


class Journal:
    """Replay it, start it, append to it, rotate it, close it: in this order. Made and used within one event loop."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._encode = msgspec.json.Encoder().encode
        self._refusal: str | None = "the store is not open"
        self._descriptor = -1
        self._thread: DiskThread | None = None
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self._failed = False
        self._loop = asyncio.get_running_loop()
        self._on_failure: Callable[[], None] | None = None
        self._ends: dict[int, int] = {}
        """Where the generations that failed and are still on disk end."""
        self._work = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None
        """Set while changes that nobody waits for will be written by themselves."""
        self._payloads: list[bytes] = []
        self._changes: list[Change] = []
        self._waiting: list[asyncio.Future[None]] = []
        """Who waits for what was handed over; resolved with the batch that takes it."""
        self._acknowledge: list[asyncio.Future[None]] = []
        self._in_flight = False
        self._switch: Callable[[], None] | None = None
        self._next_number = 1
        self._torn: dict[int, int] = {}
        """The journals that have a torn tail, and where it begins."""
        self.generation = 0
        """The generation that is being written."""
        self.bytes = 0
        """Bytes in that generation's file."""
        self.batches = 0
        """Frames written since the start; one fdatasync each."""
        self.records = 0
        """Changes written since the start."""

    # ---- reading, before the start ----------------------------------------------------------------------------

    def generations(self) -> list[int]:
        """The generations on disk. Raises StoreError where one is missing between others."""
        found = sorted(g for name in self._folder.names() if (g := journal_generation(name)) is not None)
        for before, after in itertools.pairwise(found):
            if after != before + 1:
                missing = self._folder.path / journal_name(before + 1)
                raise StoreError(f"{missing} is missing: {RESTORE}")
        return found

    async def read(self, generations: Sequence[int]) -> tuple[list[list[Change]], bool]:
        """The changes of each generation, and whether the last one that holds any has a torn tail; ``start`` cuts it.

        Raises:
            StoreError: A journal is missing or damaged.
        """
        read: list[list[Change]] = []
        ends: dict[int, int] = {}
        for generation in reversed(generations):
            name = journal_name(generation)
            data = await self._folder.read(name)
            end = ends.get(generation, len(data))
            found = frames.read(data[:end], self._folder.path / name, generation)
            if len(data) < end or (found.torn and any(read)):
                raise frames.damaged(self._folder.path / name, found.end)
            if found.torn:
                self._torn[generation] = found.end
            if not read:
                self.generation, self.bytes = generation, found.end
                self._next_number = len(found.payloads) + 1
            changes = self._decode(found.payloads, name)
            if changes and isinstance(changes[0], Bases):
                ends |= changes[0].ends
            read.append(changes)
        return read[::-1], bool(self._torn)

    def _decode(self, payloads: Sequence[bytes], name: str) -> list[Change]:
        decode = msgspec.json.Decoder(list[Change]).decode
        try:
            return [change for payload in payloads for change in decode(payload)]
        except UNREADABLE as error:
            path = self._folder.path / name
            raise StoreError(f"{path} holds what this version of Ostiary does not read: {error}") from error

    def unused(self) -> bool:
        """Whether there is no journal, or the first one without a change."""
        found = self.generations()
        name = journal_name(1)
        return not found or (found == [1] and self._folder.read_now(name) == frames.header(1))

    def create_first(self) -> None:
        """Make the first journal of a new store; blocks. Raises OSError."""
        self._folder.create(journal_name(1), frames.header(1))

    # ---- writing ----------------------------------------------------------------------------------------------

    def start(self, on_durable: Callable[[list[Change]], None], on_failure: Callable[[], None]) -> None:
        """Go on writing the last journal that was read.

        ``on_durable`` gets the changes of each batch, in order, once they are on disk and before they are acknowledged.
        ``on_failure`` is called when a write failed: from then on changes are refused until ``resume``.

        Raises:
            StoreError: The file cannot be opened.
            OSError: The torn tail cannot be cut.
        """
        for generation, end in self._torn.items():
            self._folder.cut(journal_name(generation), end)
            log.warning("a torn tail was cut off %s at byte %d", journal_name(generation), end)
        self._descriptor = self._folder.open_to_append(journal_name(self.generation))
        self._refusal = None
        self._on_failure = on_failure
        self._thread = DiskThread("journal")
        self._writer = self._loop.create_task(
            self._write_until_closed(self._thread, on_durable), name="journal"
        )

    @property
    def healthy(self) -> bool:
        """Whether it takes changes."""
        return self._refusal is None

    @property
    def working(self) -> bool:
        """Whether it has been started, and has neither failed nor been closed; it may refuse changes all the same."""
        return self._writer is not None and not (self._failed or self._closed)

    def append(self, change: Change) -> asyncio.Future[None]:
        """Hand over a change. The future is done once the change is durable and applied, or holds a StoreError.

        Cancelling the future takes nothing back. Raises StoreError where no changes are taken.
        """
        self._hand_over(change)
        future = self._loop.create_future()
        self._waiting.append(future)
        self._work.set()
        return future

    def append_soon(self, change: Change) -> None:
        """Hand over a change without waiting. Raises StoreError where no changes are taken."""
        self._hand_over(change)
        if self._soon is None:
            self._soon = self._loop.call_later(SOON_SECONDS, self._now_is_soon)

    def _hand_over(self, change: Change) -> None:
        if self._refusal is not None:
            raise StoreError(self._refusal)
        self._payloads.append(self._encode(change))
        self._changes.append(change)

    def _now_is_soon(self) -> None:
        self._soon = None
        if self._changes:
            self._work.set()

    async def settle(self) -> None:
        """Wait until every change handed over so far is applied, or the journal has failed."""
        if self._writer is None or not (self._in_flight or self._changes):
            return
        future = self._loop.create_future()
        self._waiting.append(future)
        self._work.set()
        with contextlib.suppress(StoreError):
            await future

    async def rotate(self, bases: Callable[[int], Bases]) -> int:
        """Go over to a new generation, and say which.

        ``bases`` is called with it at the instant between the two: all changes of the old generation are applied, and
        none of the new one is. What it returns becomes the new journal's first change. Durable on return.

        Raises:
            OSError: The new file could not be made: the old one goes on.
            StoreError: The journal has failed, or is closed.
        """
        if not self.working:
            raise StoreError(self._refusal)
        return await self._go_over(bases)

    async def restart(self, bases: Callable[[int], Bases]) -> int:
        """After a failure: go over to a new generation, as ``rotate`` does. No changes are taken until ``resume``.

        Raises:
            OSError: The new file could not be made.
            StoreError: It could not be written either, or the journal is closed.
        """
        return await self._go_over(bases)

    def resume(self) -> None:
        """Everything is on disk again: take changes."""
        if self.working:
            self._refusal = None

    async def _go_over(self, bases: Callable[[int], Bases]) -> int:
        failed = self._failed
        generation = self.generation + 1
        descriptor = await asyncio.to_thread(self._create, generation)
        if self._closed or self._failed != failed:
            os.close(descriptor)
            raise StoreError(self._refusal)
        switched: asyncio.Future[None] = self._loop.create_future()

        def switch() -> None:
            change = msgspec.structs.replace(bases(generation), ends=self._ends)
            self._take_over(descriptor, generation)
            self._payloads.insert(0, self._encode(change))
            self._changes.insert(0, change)

        self._switch = switch
        self._waiting.append(switched)
        self._work.set()
        try:
            await switched
        except BaseException:
            self._switch = None
            if self._descriptor != descriptor:
                os.close(descriptor)
            raise
        return generation

    async def forget(self, before: int) -> None:
        """Remove the journals before that generation, the oldest first. Raises OSError."""
        old = [journal_name(generation) for generation in self.generations() if generation < before]
        await asyncio.to_thread(self._folder.remove, old)
        self._ends = {generation: end for generation, end in self._ends.items() if generation >= before}

    def refuse(self) -> None:
        """Take no more changes; those handed over are still written."""
        self._refusal = self._refusal or "the store is closed"

    async def close(self) -> None:
        """Write what waits and let go of the file."""
        self.refuse()
        self._closed = True
        self._work.set()
        if self._writer is not None:
            await self._writer
        if self._soon is not None:
            self._soon.cancel()
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def _write_until_closed(
        self, thread: DiskThread, on_durable: Callable[[list[Change]], None]
    ) -> None:
        while not self._closed or self._waiting or self._changes:
            await self._work.wait()
            await self._gather()
            self._work.clear()
            try:
                await self._write_batch(thread, on_durable)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                await self._fail(error)

    async def _gather(self) -> None:
        """Give way while that brings others who wait for a change: one fdatasync is for all of them.

        Where nobody else is at work this takes a few microseconds; a batch costs more than a call does.
        """
        waiting, quiet = len(self._waiting), 0
        for _ in range(MOST_TURNS):
            await asyncio.sleep(0)
            if len(self._waiting) > waiting:
                waiting, quiet = len(self._waiting), 0
            elif (quiet := quiet + 1) == QUIET_TURNS:
                return

    async def _write_batch(self, thread: DiskThread, on_durable: Callable[[list[Change]], None]) -> None:
        """Everything that waits: written, made durable, applied, acknowledged."""
        if self._switch is not None:
            switch, self._switch = self._switch, None
            switch()
        payloads, self._payloads = self._payloads, []
        changes, self._changes = self._changes, []
        self._acknowledge, self._waiting = self._waiting, []
        if payloads:
            self._in_flight = True
            await thread.run(partial(self._write, payloads))
            self._in_flight = False
            self.batches += 1
            self.records += len(changes)
            on_durable(changes)
        for future in self._acknowledge:
            if not future.done():
                future.set_result(None)
        self._acknowledge = []

    def _write(self, payloads: Sequence[bytes]) -> None:
        """In the journal's thread."""
        data = frames.frame(self._next_number, payloads)
        system = self._folder.system
        write_all(system, self._descriptor, data)
        system.fdatasync(self._descriptor)
        self._next_number += 1
        self.bytes += len(data)

    async def _fail(self, error: Exception) -> None:
        """Refuse changes, drop what waits. A fault in the program is final: memory may not be what the disk has."""
        path = self._folder.path / journal_name(self.generation)
        on_failure, self._failed, self._switch = self._on_failure, True, None
        if isinstance(error, OSError):
            remedy = "it goes on by itself once the disk takes them again: free space, or see to the disk"
        else:
            on_failure, remedy = None, "restart, and report this fault with the log"
        self._refusal = f"{path} could not be written ({error}), so the store takes no writes: {remedy}"
        log.critical("%s", self._refusal, exc_info=None if isinstance(error, OSError) else error)
        if on_failure is not None:
            self._ends[self.generation] = self.bytes
            with contextlib.suppress(OSError, StoreError):  # for a crash before there is a new generation
                await asyncio.to_thread(self._folder.cut, path.name, self.bytes)
        for future in (*self._acknowledge, *self._waiting):
            if not future.done():
                future.set_exception(StoreError(self._refusal))
        self._payloads, self._changes, self._waiting, self._acknowledge = [], [], [], []
        self._in_flight = False
        if on_failure is not None:
            on_failure()

    def _create(self, generation: int) -> int:
        self._folder.create(journal_name(generation), frames.header(generation))
        return self._folder.open_to_append(journal_name(generation))

    def _take_over(self, descriptor: int, generation: int) -> None:
        with contextlib.suppress(OSError):  # all that counts was made durable before
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._failed = False
        self.generation = generation
        self.bytes = len(frames.header(generation))
        self._next_number = 1
