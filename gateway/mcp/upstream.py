"""What the gateway asks of an MCP server, whatever the transport.

An ``Upstream`` keeps its sessions to itself: it opens one for each ``SessionKey`` when it is first needed, keeps it,
and opens it again when the server has forgotten it. Request ids and progress tokens are the upstream's own on the
wire, and the caller's own on this side. In the modern era there are no sessions: then a key says whose requests may
share a process, where the transport has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.mcp.eras import Era
from gateway.mcp.messages import Message, Notification, Params, Reply, Request, RequestId
from gateway.model import Reason


class UpstreamError(Exception):
    """The upstream did not answer as it should. ``detail`` may be shown to the caller."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class EraChangedError(UpstreamError):
    """The upstream speaks no longer the era in which it was asked, so it has done nothing. ``era_for`` knows better."""

    def __init__(self, name: str) -> None:
        detail = f"Upstream {name} does not speak the revision of MCP that it spoke before."
        super().__init__(Reason.UPSTREAM_UNAVAILABLE, detail)


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Whose upstream session. Two callers share one only where their keys are equal.

    ``owner`` is (tenant_id, client_id), both None for anonymous callers; ``GATEWAY`` is the gateway itself.
    ``capabilities`` are the client capabilities to declare to the upstream, as canonical JSON (sorted keys).
    """

    owner: tuple[str | None, str | None]
    capabilities: bytes = b"{}"
    """Nothing in the modern era, where each request says its own."""
    era: Era = Era.LEGACY


GATEWAY = SessionKey(owner=("", ""))
MODERN_GATEWAY = SessionKey(owner=("", ""), era=Era.MODERN)

Fields = Sequence[tuple[str, str]]
"""Header fields."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What an upstream said of itself, in ``server/discover`` or ``initialize``."""

    protocol_version: str
    capabilities: dict[str, Any] = field(default_factory=dict)
    server_info: dict[str, Any] = field(default_factory=dict)
    instructions: str | None = None
    era: Era = Era.LEGACY


class Load(Protocol):
    """What a request costs, and whom."""

    @property
    def owner(self) -> tuple[str | None, str | None]:
        """With whom it is counted (see ``Places``)."""

    def grow_to(self, size: int) -> None:
        """So many bytes of its answer are here. Raises UpstreamError where that is too much."""


class Exchange(Protocol):
    """One request that is under way."""

    async def receive(self) -> Message:
        """The next Notification or Request that belongs to it, or its Reply, after which there is nothing more.

        Raises UpstreamError: unavailable, invalid, or over a time limit (it is then cancelled there).
        """

    def hold(self) -> None:
        """Take no place within ``max_concurrency`` and let no time count, until ``resume``."""

    async def resume(self, params: Params) -> None:
        """Go on, for a request with these parameters (its progress token is the caller's from now on).

        Raises UpstreamError.
        """

    def asked(self, seconds: float) -> None:
        """The client has been asked something for it: so long it may take to answer.

        Meanwhile no time of the upstream's counts, and it takes no place within ``max_concurrency``.
        """

    def answered(self) -> None:
        """It has answered: once that is so of all that it was asked, the time limit begins anew, and it has its place."""

    async def cancel(self, reason: str) -> None:
        """Tell the upstream to stop (notifications/cancelled); a later ``receive`` raises CancelledByCaller."""


class CancelledByCaller(Exception):  # noqa: N818 - what was asked for
    """The exchange was cancelled by ``Exchange.cancel``."""


Unsolicited = Callable[[SessionKey, Notification | Request], None]
"""Gets what an upstream sends outside any exchange. Must not block; a Request is answered later by ``respond``."""

Forgot = Callable[[SessionKey | None], None]
"""Is told that an upstream has forgotten what it was to tell of in the session of that key; None: in all. Must not block."""


class Upstream(Protocol):
    """One configured MCP server."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""

    @property
    def eras(self) -> frozenset[Era]:
        """The eras that it is known to speak."""

    async def describe(self) -> ServerInfo:
        """What it says of itself in the newest era that it speaks. Raises UpstreamError."""

    async def era_for(self, key: SessionKey) -> Era:
        """The era in which to ask it for ``key``: that of the key, unless it speaks the other alone.

        Raises UpstreamError.
        """

    def request(
        self,
        key: SessionKey,
        method: str,
        params: Params,
        fields: Fields = (),
        load: Load | None = None,
    ) -> AbstractAsyncContextManager[Exchange]:
        """Send a request, in the era of ``key``; leaving the context early abandons it (and cancels it upstream).

        ``fields``: what it has in its headers, where the transport has any, beside what each of them has.
        ``load``: for whom it is, where that is not the owner of ``key``, and how much of its answer may be kept.
        Entering waits for a place within ``max_concurrency`` and sends; raises UpstreamError, EraChangedError among them.
        """

    async def set_level(self, key: SessionKey, level: str) -> None:
        """In the legacy era: have that session send log messages from ``level`` on, if it does not. Raises UpstreamError."""

    async def notify(self, key: SessionKey, method: str, params: Params) -> None:
        """Send a notification on the session of ``key``, if it is open. Never raises for a dead upstream."""

    async def respond(self, key: SessionKey, request_id: RequestId, reply: Reply) -> None:
        """Answer a Request that the upstream sent. Never raises for a dead upstream."""

    def listen(self, key: SessionKey) -> None:
        """From now on take unsolicited messages of that session, too (a GET stream, where the transport has one)."""

    def unlisten(self, key: SessionKey) -> None:
        """Nobody takes them any more: the session may be ended once it has been idle for long."""

    def watch(self, uri: str) -> None:
        """In the modern era: tell of changes of that resource, as unsolicited messages of the gateway's own."""

    def unwatch(self, uri: str) -> None:
        """Tell of them no more."""

    async def watched(self, uris: Iterable[str]) -> frozenset[str]:
        """Wait until the server has agreed to tell of them, or refused, but not for long; those that it refused."""

    async def end(self, key: SessionKey) -> None:
        """Close the session of ``key``, if it is open; another will be opened when needed."""

    async def close(self) -> None:
        """Close every session and everything that belongs to it."""
