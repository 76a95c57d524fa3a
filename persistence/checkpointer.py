"""When and how the state in memory is folded into the JSON files.

A checkpoint goes over to a new journal generation, replaces the file of each part that changed, then removes the older
generations. At no instant is a change in neither a file nor a journal that follows it.

When the journal has failed, the same is what brings it back: a new generation, every file anew from memory, which holds
exactly what was acknowledged. It is tried again and again, more and more slowly, and only when it is all done are writes
taken again. Nothing that the failed generation's disk said is needed for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from persistence.audit_log import AuditLog
from persistence.audit_segments import Segment
from persistence.changes import AUDIT, CLIENTS, PARTS, TOKENS, Bases
from persistence.checkpoint import encode, file_name, with_checksum
from persistence.clients import JsonClients
from persistence.collection import JsonCollection
from persistence.files import Folder
from persistence.journal import Journal
from persistence.records import StoreError
from persistence.tokens import JsonTokens

log = logging.getLogger("ostiary.storage")

SEGMENT_BYTES: Final = 8 << 20
"""Size of the newest audit segment's entries from which on it is sealed."""

PAUSE: Final = 0.5
"""Seconds between a write and its checkpoint."""

_BUSY: Final = 10
"""So many times PAUSE while writes keep coming: replacing files slows the journal's fdatasync down."""
_BUSY_RECORDS: Final = 200
"""More writes than this within a pause are busy."""
_RETRY_PAUSE: Final = 5.0
"""Seconds before a checkpoint that failed is tried again; each further one waits twice as long: each leaves a journal."""
_LONGEST_RETRY_PAUSE: Final = 300.0
RECOVERY_PAUSE: Final = 1.0
"""Seconds from a failure of the journal to the first attempt to recover; each further one waits twice as long."""
_LONGEST_RECOVERY_PAUSE: Final = 30.0
_REST: Final = 9
"""So many times as long as the last checkpoint took, nothing is done before the next one."""


class Checkpointer:
    """Keeps the JSON files of a store up to date. Its owner calls ``start`` and ``stop``."""

    def __init__(
        self,
        folder: Folder,
        journal: Journal,
        *,
        clients: JsonClients,
        tokens: JsonTokens,
        audit: AuditLog,
        collections: Mapping[str, JsonCollection[Any]],
        segment_bytes: int,
        pause: float,
        recovery_pause: float,
        on_recovery: Callable[[], None],
    ) -> None:
        """``on_recovery`` is called once writes are taken again after the journal had failed."""
        self._folder = folder
        self._journal = journal
        self._audit = audit
        self._records: dict[str, JsonClients | JsonTokens | JsonCollection[Any]] = {
            CLIENTS: clients,
            TOKENS: tokens,
            **collections,
        }
        self._parts: dict[str, JsonClients | JsonTokens | JsonCollection[Any] | AuditLog] = {
            **self._records,
            AUDIT: audit,
        }
        self._segment_bytes = segment_bytes
        self._shortest_pause = pause
        self._recovery_pause = recovery_pause
        self._on_recovery = on_recovery
        self._sealing = 0
        """How many entries of the newest segment were being sealed when that failed."""
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()
        """Set where no pause may be waited for: on a failure of the journal, and when it is to stop."""
        self._failed = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.bases: dict[str, int] = dict.fromkeys(PARTS, 1)
        """The generation that each part's file names."""
        self.count = 0
        """Checkpoints written since the start."""
        self.last_seconds = 0.0
        """How long the last one took."""

    async def write_first(self) -> None:
        """Write the files of a new store. Raises OSError."""
        for part in PARTS:
            await self._write(part, 1, self._audit.segment())

    async def write_now(self) -> None:
        """Write a checkpoint of what changed, before ``start``. Raises OSError, StoreError."""
        await self._checkpoint(after_failure=False)

    def start(self) -> None:
        """From now on write checkpoints."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="checkpointer")
        if any(part.changed for part in self._parts.values()):
            self._dirty.set()

    def wake(self) -> None:
        """Something changed."""
        self._dirty.set()

    def failed(self) -> None:
        """The journal has failed."""
        self._failed = True
        self._dirty.set()
        self._urgent.set()

    async def stop(self) -> None:
        """Write the last checkpoint. One that cannot be written is logged: the journals have everything."""
        self._stopping = True
        self._dirty.set()
        self._urgent.set()
        if self._task is not None:
            await self._task
        if self._task is not None and self._journal.working:
            await self._try_write()

    async def _run(self) -> None:
        retry = _RETRY_PAUSE
        while True:
            await self._until_due()
            if self._stopping:
                return
            if self._failed:
                await self._recover()
                continue
            self._dirty.clear()
            if await self._try_write():
                retry = _RETRY_PAUSE
                continue
            await self._pause(retry)
            retry = min(2 * retry, _LONGEST_RETRY_PAUSE)
            self._dirty.set()

    async def _recover(self) -> None:
        """Bring the journal back, however long it takes."""
        pause = self._recovery_pause
        while True:
            self._calm_down()
            await self._pause(pause)
            if self._stopping:
                return
            if await self._try_write(after_failure=True):
                self._journal.resume()
                self._on_recovery()
                log.warning("the store %s takes writes again", self._folder.path)
                return
            pause = min(2 * pause, _LONGEST_RECOVERY_PAUSE)

    def _calm_down(self) -> None:
        """The failure is being seen to."""
        self._failed = False
        if not self._stopping:
            self._urgent.clear()

    async def _until_due(self) -> None:
        """Wait for a change, then until it is quiet, but not for ever; not at all where something is urgent."""
        await self._dirty.wait()
        loop = asyncio.get_running_loop()
        latest = loop.time() + _BUSY * self._shortest_pause
        pause = max(self._shortest_pause, _REST * self.last_seconds)
        busy = True
        while busy and not self._urgent.is_set():
            records = self._journal.records
            await self._pause(pause)
            pause = self._shortest_pause
            busy = (
                self._journal.records - records > _BUSY_RECORDS
                and self._audit.bytes < self._segment_bytes
                and loop.time() < latest
            )

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless something is or becomes urgent."""
        try:
            async with asyncio.timeout(seconds):
                await self._urgent.wait()
        except TimeoutError:
            return

    async def _try_write(self, *, after_failure: bool = False) -> bool:
        """Whether a checkpoint could be written; if not, every journal stays."""
        try:
            await self._checkpoint(after_failure=after_failure)
        except (OSError, StoreError) as error:
            log.error("no checkpoint of %s could be written: %s", self._folder.path, error)
            self._audit.checkpoint_failed(error)
            return False
        except Exception as error:  # a fault in the program must not end the checkpoints for good
            log.exception("no checkpoint of %s could be written", self._folder.path)
            self._audit.checkpoint_failed(error)
            return False
        return True

    async def _checkpoint(self, *, after_failure: bool) -> None:
        """After a failure everything is written, whether it changed or not."""
        if not after_failure and not any(part.changed for part in self._parts.values()):
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        changed: list[str] = []
        segments: list[Segment] = []

        def between_generations(generation: int) -> Bases:
            changed.extend(part for part, state in self._parts.items() if state.changed or after_failure)
            for part in changed:
                self._parts[part].changed = False
            segments.append(self._audit.segment())
            return Bases({part: generation if part in changed else self.bases[part] for part in PARTS})

        try:
            go_over = self._journal.restart if after_failure else self._journal.rotate
            generation = await go_over(between_generations)
            for part in changed:
                await self._write(part, generation, segments[0])
                self.bases[part] = generation
            await self._journal.forget(before=generation)
            self._audit.journals_gone(before=generation)
        except BaseException:
            for part in changed:
                self._parts[part].changed = True
            raise
        self.count += 1
        self.last_seconds = loop.time() - started

    async def _write(self, part: str, generation: int, segment: Segment) -> None:
        """Replace the file of one part. The audit's is written as it was between the generations; the others may
        hold later changes already, for which it makes no difference that the journal is replayed over them.
        """
        if part == AUDIT:
            await self._write_audit(generation, segment)
        else:
            await self._replace(part, {"journal": generation}, self._records[part].lines())

    async def _write_audit(self, generation: int, segment: Segment) -> None:
        """Once the segment is large enough, seal it, then let ``audit.json`` name the next one.

        A crash in between leaves a sealed file that nobody looks at, and that is written again. After an error it may
        already count: then the same entries are sealed again, whatever has come meanwhile.
        """
        full_enough = segment.size >= self._segment_bytes or self._audit.seal_wanted
        if not self._sealing and full_enough:
            self._sealing = len(segment.lines)
        if not self._sealing:
            await self._replace_audit(generation, segment)
            return
        full, newest = segment.split(self._sealing)
        await self._audit.seal(full)
        await self._replace_audit(generation, newest)
        self._audit.sealed(full)
        self._sealing = 0

    async def _replace_audit(self, generation: int, segment: Segment) -> None:
        head = {
            "journal": generation,
            "segment": segment.number,
            "first_seq": segment.first_seq,
            "prev": segment.prev,
            "intents": segment.intents,
        }
        signed_first = self._audit.is_signed_first
        if signed_first:
            await self._audit.sign(segment, generation)
        await self._replace(AUDIT, head, segment.slices())
        if not signed_first:
            await self._audit.sign(segment, generation)

    async def _replace(self, part: str, head: dict[str, object], lines: Iterable[bytes]) -> None:
        array = "entries" if part == AUDIT else part
        pieces = encode(head, array, lines)
        await self._folder.replace(file_name(part), pieces if part == AUDIT else with_checksum(pieces))
