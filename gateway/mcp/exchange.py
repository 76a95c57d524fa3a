"""What both transports share: ids and progress tokens on the wire, the handshake, and tasks that are owned.

On the wire a request has an id of ours, unique within its upstream, and the progress token of its caller (if any) is
replaced by that id. So two callers never meet, whatever ids and tokens they choose.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from gateway.mcp.eras import CLIENT, SERVER_INFO, Era, as_modern_request
from gateway.mcp.messages import (
    LEGACY_VERSIONS,
    MODERN_VERSIONS,
    Message,
    Notification,
    Params,
    Rejected,
    Reply,
    Request,
    RequestId,
    encode_notification,
    encode_request,
    parse_upstream_message,
)
from gateway.mcp.upstream import Fields, ServerInfo, SessionKey, UpstreamError
from gateway.model import Reason

log = logging.getLogger("ostiary.mcp")

VERSIONS: Final = (*LEGACY_VERSIONS, "2024-11-05")
"""What an upstream may speak; the oldest differs in nothing that the gateway forwards."""
INITIALIZED: Final = encode_notification("notifications/initialized", {})
MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of one message from an upstream."""
MAX_BATCH: Final = 1_000
"""Messages of one batch."""
MAX_ID: Final = 1_024
"""Characters of the id of a request of an upstream's, which is kept until that is answered."""
NOTIFY_SECONDS: Final = 5.0
"""How long a message that nobody waits for may take to be sent."""
PROGRESS: Final = "notifications/progress"
DISCOVER: Final = "server/discover"
PROBE_SECONDS: Final = 3.0
"""How long a server may take to answer ``server/discover`` before it is taken for one of the legacy era."""
CAPABILITIES: Final = b'{"elicitation":{"form":{},"url":{}},"roots":{},"sampling":{}}'
"""What clients of the gateway may be able to do: servers may list by it. What each can do, its requests say."""


class Ticket:
    """A request under way: our id for it, and what its caller calls it."""

    __slots__ = ("fields", "id", "key", "method", "params", "token")

    def __init__(
        self, request_id: int, key: SessionKey, method: str, params: Params, fields: Fields = ()
    ) -> None:
        self.id = request_id
        self.fields = fields
        """What its headers say beside what they always say, in the modern era."""
        self.key = key
        self.method = method
        self.params = params
        self.token = _progress_token(params)
        """The caller's own progress token; None: it asked for no progress."""

    def encode(self) -> bytes:
        """The request on the wire."""
        params = self.params
        if self.token is not None:
            params = {**params, "_meta": {**params["_meta"], "progressToken": self.id}}
        return encode_request(self.id, self.method, params)

    def rename(self, params: Params) -> None:
        """The caller goes on under another progress token."""
        if self.token is not None:
            self.token = _progress_token(params)

    def encode_cancellation(self, reason: str) -> bytes:
        """What tells the upstream to stop."""
        return encode_notification("notifications/cancelled", {"requestId": self.id, "reason": reason})

    def restore(self, progress: Notification) -> Notification:
        """A progress notification under the caller's own token."""
        return Notification(progress.method, {**progress.params, "progressToken": self.token})


def _progress_token(params: Params) -> RequestId | None:
    meta = params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    return token if isinstance(token, int | str) and not isinstance(token, bool) else None


def ticket_of(progress: Notification, tickets: dict[int, Ticket]) -> Ticket | None:
    """The request of which ``progress`` tells; None: one that is over, or that never was."""
    token = progress.params.get("progressToken")
    if not isinstance(token, int) or isinstance(token, bool):
        return None
    ticket = tickets.get(token)
    return ticket if ticket is not None and ticket.token is not None else None


def messages_in(data: bytes) -> list[Message]:
    """The message that ``data`` is, or the messages of a batch (2025-03-26 has them). Raises Rejected."""
    if data[:64].lstrip()[:1] != b"[":
        return [_message(data)]
    try:
        batch = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Rejected(0, "The upstream's batch is not JSON.") from None
    if len(batch) > MAX_BATCH:
        raise Rejected(0, "The upstream's batch has too many messages.")
    return [_message(bytes(message)) for message in batch]


def _message(data: bytes) -> Message:
    message = parse_upstream_message(data)
    if isinstance(message, Request) and isinstance(message.id, str) and len(message.id) > MAX_ID:
        raise Rejected(0, "The upstream's request has an id that is too long.")
    return message


def initialize_request(request_id: int, key: SessionKey) -> bytes:
    """The first message of a session."""
    params: Params = {
        "protocolVersion": LEGACY_VERSIONS[0],
        "capabilities": msgspec.Raw(key.capabilities),
        "clientInfo": CLIENT,
    }
    return encode_request(request_id, "initialize", params)


def discover_request(request_id: int) -> bytes:
    """What finds out whether a server speaks the modern era."""
    return encode_request(request_id, DISCOVER, as_modern_request({}, CAPABILITIES))


class _Discovered(msgspec.Struct, rename="camel"):
    """The result of ``server/discover``."""

    supported_versions: list[str]
    capabilities: dict[str, Any] = {}
    instructions: str | None = None
    meta: dict[str, Any] = msgspec.field(name="_meta", default={})


def discovered(reply: Reply) -> ServerInfo | None:
    """What a server says of itself in the modern era; None: it does not speak it."""
    if reply.result is None:
        return None
    try:
        said = msgspec.json.decode(reply.result, type=_Discovered)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    version = next((version for version in MODERN_VERSIONS if version in said.supported_versions), None)
    if version is None:
        return None
    server = said.meta.get(SERVER_INFO)
    return ServerInfo(
        version, said.capabilities, server if isinstance(server, dict) else {}, said.instructions, Era.MODERN
    )


class _Initialized(msgspec.Struct, rename="camel"):
    """The result of ``initialize``."""

    protocol_version: str
    capabilities: dict[str, Any] = {}
    server_info: dict[str, Any] = {}
    instructions: str | None = None


def server_info(name: str, reply: Reply) -> ServerInfo:
    """What the upstream says of itself. Raises UpstreamError where it does not, or speaks no revision of ours."""
    if reply.result is None:
        raise invalid(name, "refused to open a session")
    try:
        said = msgspec.json.decode(reply.result, type=_Initialized)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise invalid(name, "answered initialize with something else") from None
    if said.protocol_version not in VERSIONS:
        raise invalid(name, "speaks no revision of MCP that the gateway knows")
    return ServerInfo(said.protocol_version, said.capabilities, said.server_info, said.instructions)


def unavailable(name: str, what: str) -> UpstreamError:
    """The upstream cannot be had."""
    return UpstreamError(Reason.UPSTREAM_UNAVAILABLE, f"Upstream {name} {what}.")


def invalid(name: str, what: str) -> UpstreamError:
    """The upstream breaks the protocol."""
    return UpstreamError(Reason.UPSTREAM_INVALID, f"Upstream {name} {what}.")


def late(name: str, seconds: float) -> UpstreamError:
    """The upstream took too long."""
    return UpstreamError(Reason.UPSTREAM_TIMEOUT, f"Upstream {name} did not answer within {seconds:g} s.")


class Errands:
    """Tasks that nobody waits for at once, with an owner that does in the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task. Should it fail, the log says so."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Cancel every task and wait for its end."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Wait until every task has come to its own end."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or isinstance(task.exception(), UpstreamError):
            return  # whoever waited for it has been told
        if task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())
