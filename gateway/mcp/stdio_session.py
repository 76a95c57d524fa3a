"""One child process with which MCP is spoken, and the requests that share its pipes.

What the child sends finds its way so: a reply by its id, progress by its token. Everything else that belongs to a
request goes to the only one that is under way; where it could be another one's nobody can tell whose it is, so a
notification is unsolicited, and a request is refused (unless the process is one client's own, which then gets it
unsolicited). In a process that several callers share, a request that was given up could be the one, too, until the
child has answered it. Anonymous callers are never taken for one another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, Protocol

from gateway.mcp.complaint import Complaint
from gateway.mcp.eras import ACKNOWLEDGED, LISTEN, SUBSCRIPTION_ID, Era, as_modern_request
from gateway.mcp.exchange import (
    CAPABILITIES,
    INITIALIZED,
    PROGRESS,
    Ticket,
    discover_request,
    discovered,
    initialize_request,
    messages_in,
    server_info,
    ticket_of,
    unavailable,
)
from gateway.mcp.log_levels import AskedLevel
from gateway.mcp.messages import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Message,
    Notification,
    Rejected,
    Reply,
    Request,
    RequestId,
    encode_error,
    encode_notification,
    encode_reply,
    encode_request,
    encode_result,
)
from gateway.mcp.stdio_process import ChildProcess, LineLog
from gateway.mcp.unasked import Unasked
from gateway.mcp.upstream import ServerInfo, SessionKey, Unsolicited, UpstreamError
from gateway.model import ANONYMOUS

MAX_UNANSWERED: Final = 1_000
"""How many requests that the child has not answered are remembered."""
MAX_ASKED: Final = 1_000
"""How many requests of the child's that were passed on, and not answered yet, are remembered."""
_NOBODY: Final = (ANONYMOUS.tenant_id, ANONYMOUS.client_id)
_AS_SHARED: Final = (
    ': nobody can tell which of several calls asks (with sessions = "client" each client has its own process)'
)
_OF_NO_REQUEST: Final = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        ACKNOWLEDGED,
    }
)


class Reader(Protocol):
    """Takes what belongs to one request. Never waits."""

    def put(self, message: Message, size: int) -> None:
        """It has come, in so many bytes."""

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""


class StdioSession:
    """A child process, from its handshake to its end."""

    def __init__(
        self,
        name: str,
        key: SessionKey,
        *,
        log: LineLog,
        unsolicited: Unsolicited,
        shared: bool,
    ) -> None:
        """``shared``: requests of different clients meet here."""
        self.name = name
        self.key = key
        self.info: ServerInfo | None = None
        """What the child says of itself, once it has."""
        self.process: ChildProcess
        self.last_used = 0.0
        self.log_level = AskedLevel()
        self.tickets: dict[int, Ticket] = {}
        self._exchanges: dict[int, Reader] = {}
        self._log = log
        self._unsolicited = unsolicited
        self._shared = shared or key.owner == _NOBODY
        self._unasked = Unasked(asyncio.get_running_loop().time)
        self._complaint = Complaint(asyncio.get_running_loop().time)
        """Of what the child asks, and may not."""
        self._unanswered: dict[int, SessionKey] = {}
        """Whose each request is that the child has not answered, also where it was given up."""
        self._lost_track = False
        """Whether there were too many of them."""
        self._asked: dict[RequestId, SessionKey] = {}
        """Whom each request of the child's was passed on to."""
        self._handshakes: dict[int, asyncio.Future[Reply]] = {}
        """What stands before all other requests, by id."""
        self.fate: UpstreamError | None = None
        """Why the child is gone, once it is."""
        self._listening: dict[int, _Subscription] = {}
        self.listened = False

    @property
    def modern(self) -> bool:
        """Whether the child is spoken to in the modern era."""
        return self.info is not None and self.info.era is Era.MODERN

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._exchanges)

    async def discover(self, request_id: int, patience: float) -> None:
        """Find out whether the child speaks the modern era: then ``info`` is set. Raises UpstreamError."""
        probe = self._first(request_id, discover_request(request_id))
        await asyncio.wait([probe], timeout=patience)
        if probe.done():
            self.info = discovered(probe.result())

    async def initialize(self, request_id: int) -> None:
        """Shake hands. Raises UpstreamError.

        A child that has not answered whether it is modern may still say so, late: some servers answer nothing that they
        do not know, others are slow to start.
        """
        probes = list(self._handshakes.values())
        hello = self._first(request_id, initialize_request(request_id, self.key))
        await asyncio.wait([hello, *probes], return_when=asyncio.FIRST_COMPLETED)
        self.info = next((discovered(probe.result()) for probe in probes if probe.done()), None)
        if self.info is None:
            self.info = server_info(self.name, await hello)
            self.process.write(INITIALIZED)

    def _first(self, request_id: int, request: bytes) -> asyncio.Future[Reply]:
        """The answer to a request that stands before all others. Raises UpstreamError where the child is gone."""
        if self.fate is not None:
            raise self.fate
        answer = self._handshakes[request_id] = asyncio.get_running_loop().create_future()
        self.process.write(request)
        return answer

    def listen(self, request_id: int, wanted: dict[str, Any]) -> None:
        """In the modern era: have the child tell of changes; of which, ``wanted`` says (SubscriptionFilter)."""
        self._listening[request_id] = _Subscription(wanted)
        params = as_modern_request({"notifications": wanted}, CAPABILITIES)
        self.process.write(encode_request(request_id, LISTEN, params))

    def unlisten(self, wanted: dict[str, Any]) -> None:
        """Have it tell of these no more."""
        for request_id, one in tuple(self._listening.items()):
            if one.wanted == wanted:
                del self._listening[request_id]
                one.settle(granted=True)
                self.process.write(encode_notification("notifications/cancelled", {"requestId": request_id}))

    def granted(self, uris: Iterable[str]) -> dict[str, asyncio.Future[bool]]:
        """Of each of these resources that the child was asked to tell of: whether it has agreed to."""
        asked = frozenset(uris)
        return {
            uri: one.granted
            for one in self._listening.values()
            for uri in asked.intersection(one.wanted.get("resourceSubscriptions", ()))
        }

    def begin(self, exchange: Reader, ticket: Ticket) -> None:
        """From now on take what belongs to that request. Raises UpstreamError where the child is gone."""
        if self.fate is not None:
            raise self.fate
        self.tickets[ticket.id] = ticket
        self._exchanges[ticket.id] = exchange
        self._unanswered[ticket.id] = ticket.key
        if len(self._unanswered) > MAX_UNANSWERED:
            del self._unanswered[next(iter(self._unanswered))]
            self._lost_track = True

    def finish(self, ticket: Ticket) -> None:
        """The request is over."""
        self.tickets.pop(ticket.id, None)
        self._exchanges.pop(ticket.id, None)

    def respond(self, key: SessionKey, request_id: RequestId, reply: Reply) -> None:
        """Answer what the child asked ``key``; anything else it did not ask."""
        if self._asked.get(request_id) == key:
            del self._asked[request_id]
            self.process.write(encode_reply(request_id, reply))

    def ended(self, fate: str) -> None:
        """The child is gone: so is everything that waited for it."""
        error = self.fate = unavailable(self.name, fate)
        for handshake in self._handshakes.values():
            if not handshake.done():  # who waited for it may have been cancelled
                handshake.set_exception(error)
                handshake.exception()  # where nobody waits any more
        self._handshakes.clear()
        for subscription in self._listening.values():
            subscription.settle(granted=True)  # it is opened again with the next child
        for exchange in self._exchanges.values():
            exchange.fail(error)

    def received(self, line: bytes) -> bool:
        """A line of the child's. False: it floods the gateway with what nobody asked for."""
        try:
            messages = messages_in(line)
        except Rejected:
            self._log.line("stdout, which is no message", line[:200])
            messages = []
        if not messages:
            self._unasked.add(len(line))
        for message in messages:
            self._sort(message, len(line) // len(messages))
        return not self._unasked.too_much

    def _sort(self, message: Message, size: int) -> None:
        if isinstance(message, Reply):
            self._replied(message, size)
        elif isinstance(message, Request):
            self._was_asked(message, size)
        elif message.method == PROGRESS:
            ticket = ticket_of(message, self.tickets)
            if ticket is not None:
                self._exchanges[ticket.id].put(ticket.restore(message), size)
            else:
                self._unasked.add(size)
        else:
            self._was_told(message, size)

    def _was_told(self, message: Notification, size: int) -> None:
        self._unasked.add(size)
        if message.method == ACKNOWLEDGED:
            self._was_granted(message)
        ticket = None if message.method in _OF_NO_REQUEST else self._cause()
        if ticket is not None:
            self._exchanges[ticket.id].put(message, size)
        else:
            self._unsolicited(self.key, message)

    def _was_granted(self, acknowledgement: Notification) -> None:
        meta = acknowledgement.params.get("_meta")
        request_id = meta.get(SUBSCRIPTION_ID) if isinstance(meta, dict) else None
        subscription = self._listening.get(request_id) if isinstance(request_id, int) else None
        if subscription is not None:
            subscription.settle(granted=True)

    def _cause(self) -> Ticket | None:
        """The request to which a message that names none belongs; None: nobody can tell."""
        if len(self._exchanges) != 1:
            return None
        ticket = self.tickets[next(iter(self._exchanges))]
        if not self._shared:
            return ticket
        owner = ticket.key.owner
        others = (
            request_id
            for request_id, key in self._unanswered.items()
            if key.owner != owner or (owner == _NOBODY and request_id != ticket.id)
        )
        return ticket if not self._lost_track and next(others, None) is None else None

    def _replied(self, reply: Reply, size: int) -> None:
        handshake = self._handshakes.pop(reply.id, None) if isinstance(reply.id, int) else None
        if handshake is not None:
            self._unasked.clear()
            if not handshake.done():
                handshake.set_result(reply)
            return
        subscription = self._listening.get(reply.id) if isinstance(reply.id, int) else None
        if subscription is not None:
            subscription.settle(granted=reply.error is None)
        if not isinstance(reply.id, int) or self._unanswered.pop(reply.id, None) is None:
            self._unasked.add(size)
        else:
            self._unasked.clear()
        exchange = self._exchanges.get(reply.id) if isinstance(reply.id, int) else None
        if exchange is not None:  # else it was cancelled, and this comes too late
            exchange.put(reply, size)

    def _was_asked(self, request: Request, size: int) -> None:
        self._unasked.add(size)
        if request.method == "ping":
            self.process.write(encode_result(request.id, {}))
            return
        ticket = None if self.modern else self._cause()
        if self.modern:
            self._complaint.warn(f"upstream {self.name} sent a request, which its revision of MCP forbids")
            refusal = encode_error(request.id, METHOD_NOT_FOUND, "A server sends no requests.")
            self.process.write(refusal)
        elif ticket is not None:
            self._remember(request, ticket.key)
            self._exchanges[ticket.id].put(request, size)
        elif self.listened and not self._shared:
            self._remember(request, self.key)
            self._unsolicited(self.key, request)
        else:
            why = _AS_SHARED if self._shared else ""
            method = ascii(request.method[:80])
            self._complaint.warn(f"upstream {self.name}: nobody can be asked for {method}{why}")
            refusal = encode_error(request.id, INTERNAL_ERROR, f"Nobody can be asked{why}.")
            self.process.write(refusal)

    def _remember(self, request: Request, key: SessionKey) -> None:
        """Whom the child asks; what was left unanswered longest is forgotten."""
        self._asked.pop(request.id, None)
        self._asked[request.id] = key
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]


class _Subscription:
    """What the child is to tell of, and whether it has agreed to."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.wanted = wanted
        self.granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def settle(self, *, granted: bool) -> None:
        """It has, or has not; what it said first counts."""
        if not self.granted.done():
            self.granted.set_result(granted)
