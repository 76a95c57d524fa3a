"""Has a server of the modern era tell of its resources, on few subscriptions however many resources those are.

A subscription takes many URIs, but which those are cannot be changed. So they are in batches: where one changes, a
subscription for the whole of it is opened, and the one before it ends only when the server has acknowledged the new
one. What happens meanwhile is told by either, or by both. Changes that come close together cost one opening.

What a subscription that broke off would have told nobody knows: so once it is opened again, each of its resources is
said to have changed. A server may refuse a subscription because of one URI, whoever asked for that: then those that are
new are tried in ever smaller parts, so that the others have theirs. What it refused it is asked for again after pauses
that grow, for as long as anybody wants it: it may have been starting up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Final

from gateway.mcp.eras import ACKNOWLEDGED
from gateway.mcp.exchange import Errands
from gateway.mcp.messages import METHOD_NOT_FOUND, Notification
from gateway.mcp.upstream import UpstreamError
from gateway.outbound.client import OutboundError

log = logging.getLogger("ostiary.mcp")

MAX_URIS: Final = 256
"""Of one subscription; the gateway itself grants no more."""
QUIET_SECONDS: Final = 0.2
"""From one opening of a batch to the next."""
ACKNOWLEDGE_SECONDS: Final = 5.0
"""A subscription that is open so long counts, also where the server does not acknowledge it."""
PATIENCE: Final = 2.0
"""How long a client waits for the server to agree."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
LONGEST_REFUSAL: Final = 300.0
"""From one time that it is asked for what it refused to the next; it is as long at once where it has no such method."""
STEADY_SECONDS: Final = 60.0
"""A subscription that lasted this long did not break off "again"."""
UPDATED: Final = "notifications/resources/updated"

Listen = Callable[[dict[str, Any]], AsyncGenerator[Notification, None]]
"""Opens a subscription (SubscriptionFilter). Raises Refusal, OutboundError, UpstreamError."""
Tell = Callable[[Notification], None]


class Refusal(Exception):  # noqa: N818 - a fact, not a fault
    """The server does not grant the subscription. ``code``: of its JSON-RPC error."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


class Watching:
    """What one server is to tell of."""

    def __init__(self, name: str, listen: Listen, tell: Tell, errands: Errands) -> None:
        """``name``: the upstream's."""
        self._name = name
        self._listen = listen
        self._tell = tell
        self._errands = errands
        self._batches: list[_Batch] = []
        self._of: dict[str, _Batch] = {}

    def add(self, uri: str) -> None:
        """From now on hear of that resource, too."""
        if uri in self._of:
            return
        batch = next((one for one in self._batches if len(one.uris) < MAX_URIS), None)
        if batch is None:
            batch = _Batch(self._name, self._listen, self._tell, self._errands)
            self._batches.append(batch)
        self._of[uri] = batch
        batch.add(uri)

    def discard(self, uri: str) -> None:
        """Hear of it no more."""
        batch = self._of.pop(uri, None)
        if batch is None:
            return
        batch.discard(uri)
        if not batch.uris:
            self._batches.remove(batch)

    async def refused(self, uris: Iterable[str]) -> frozenset[str]:
        """Wait until the server has agreed to tell of them, or refused, but not for long; those that it refused."""
        batches = {uri: self._of[uri] for uri in uris if uri in self._of}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for uri, batch in batches.items():
                    await batch.answered(uri)
        return frozenset(uri for uri, batch in batches.items() if batch.refuses(uri))


class _Batch:
    """What one subscription tells of, and the task that keeps it open."""

    def __init__(self, name: str, listen: Listen, tell: Tell, errands: Errands) -> None:
        self.uris: set[str] = set()
        self._name = name
        self._listen = listen
        self._tell = tell
        self._errands = errands
        self._refused: set[str] = set()
        self._ask_again_at = 0.0
        """When those are asked for again."""
        self._refusal_pause = FIRST_PAUSE
        self._step = MAX_URIS
        """How many new ones are tried at once."""
        self._missed: frozenset[str] = frozenset()
        """Those of which nobody knows what became of them."""
        self._asked: dict[str, asyncio.Event] = {}
        """Those to which the server has neither agreed, nor refused to."""
        self._changed = asyncio.Event()
        """Something else is wanted, or a subscription has ended."""
        self._task: asyncio.Task[None] | None = None

    def add(self, uri: str) -> None:
        self.uris.add(uri)
        self._asked[uri] = asyncio.Event()
        self._changed.set()
        if self._task is None:
            self._task = self._errands.run(self._keep())

    def discard(self, uri: str) -> None:
        self.uris.discard(uri)
        self._refused.discard(uri)
        self._missed -= {uri}
        self._settle({uri})
        self._changed.set()
        if not self.uris and self._task is not None:
            self._task.cancel()

    async def answered(self, uri: str) -> None:
        asked = self._asked.get(uri)
        if asked is not None:
            await asked.wait()

    def refuses(self, uri: str) -> bool:
        return uri in self._refused

    async def _keep(self) -> None:
        """Keep a subscription open, and let it tell of what is wanted; until the task is cancelled."""
        current: _Subscription | None = None
        opening: _Subscription | None = None
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        try:
            while True:
                if current is not None and current.over:
                    self._missed |= current.uris
                    self._refused.clear()
                    pause = FIRST_PAUSE if loop.time() - current.opened_at > STEADY_SECONDS else pause
                    current = None
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                self._changed.clear()
                heard = frozenset() if current is None else current.uris
                wanted = self._wanted(heard)
                if wanted == heard:
                    self._settle(heard)
                    await self._until_changed()
                    continue
                opening = _Subscription(self._name, wanted, self._listen, self._tell, self._errands)
                opening.then(self._changed.set)
                await opening.settled()
                if opening.refusal is not None and wanted - heard:
                    self._was_refused(opening.refusal, wanted - heard)
                elif opening.over:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                else:
                    if current is not None:
                        current.end()
                    current = opening
                    self._was_granted(wanted)
                await asyncio.sleep(QUIET_SECONDS)
        finally:
            for one in (current, opening):
                if one is not None:
                    one.end()

    async def _until_changed(self) -> None:
        """Wait until there is something to do."""
        if not self._refused:
            self._refusal_pause = FIRST_PAUSE
        try:
            async with asyncio.timeout_at(self._ask_again_at if self._refused else None):
                await self._changed.wait()
        except TimeoutError:
            self._refused.clear()

    def _wanted(self, heard: frozenset[str]) -> frozenset[str]:
        """What the next subscription is to tell of."""
        new = sorted(self.uris - heard - self._refused)[: self._step]
        return (heard & self.uris) | frozenset(new)

    def _was_granted(self, uris: frozenset[str]) -> None:
        self._step = min(2 * self._step, MAX_URIS)
        self._settle(uris)
        for uri in self._missed & uris:
            self._tell(Notification(UPDATED, {"uri": uri}))
        self._missed -= uris

    def _was_refused(self, refusal: Refusal, new: frozenset[str]) -> None:
        if refusal.code != METHOD_NOT_FOUND and len(new) > 1:
            self._step = len(new) // 2
            return
        log.info("upstream %s tells nothing of %d resources that clients subscribed to", self._name, len(new))
        pause = LONGEST_REFUSAL if refusal.code == METHOD_NOT_FOUND else self._refusal_pause
        self._ask_again_at = asyncio.get_running_loop().time() + pause
        self._refusal_pause = min(2 * self._refusal_pause, LONGEST_REFUSAL)
        self._refused |= new
        self._settle(new)

    def _settle(self, uris: Iterable[str]) -> None:
        for uri in uris:
            asked = self._asked.pop(uri, None)
            if asked is not None:
                asked.set()


class _Subscription:
    """One subscription, from its opening to its end."""

    def __init__(self, name: str, uris: frozenset[str], listen: Listen, tell: Tell, errands: Errands) -> None:
        self.uris = uris
        self.refusal: Refusal | None = None
        self.opened_at = asyncio.get_running_loop().time()
        self._name = name
        self._settled = asyncio.Event()
        self._reading = errands.run(self._read(listen, tell))

    @property
    def over(self) -> bool:
        """Whether it tells no more."""
        return self._reading.done()

    def then(self, call: Callable[[], None]) -> None:
        """Call that when it is over."""
        self._reading.add_done_callback(lambda _reading: call())

    def end(self) -> None:
        """Let it tell no more."""
        self._reading.cancel()

    async def settled(self) -> None:
        """Wait until it is granted, or over."""
        self.then(self._settled.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                await self._settled.wait()

    async def _read(self, listen: Listen, tell: Tell) -> None:
        try:
            async with contextlib.aclosing(listen({"resourceSubscriptions": sorted(self.uris)})) as told:
                async for message in told:
                    if message.method == ACKNOWLEDGED:
                        self._settled.set()
                    else:
                        tell(message)
        except Refusal as refusal:
            self.refusal = refusal
        except (OutboundError, UpstreamError) as error:
            log.debug("upstream %s: its subscription ended: %s", self._name, type(error).__name__)
