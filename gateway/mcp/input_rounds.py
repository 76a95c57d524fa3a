"""When a server needs something of its client: elicitation, sampling, roots, from one era to the other.

A legacy server sends its client a request, and goes on with the reply. A modern server ends the call with a result that
says what it needs (``input_required``), and the client calls again with the answers. So:

- modern client, modern upstream: both speak the same; only ``requestState`` is sealed (see ``request_state``).
- modern client, legacy upstream: the call is held open (see ``held_calls``) while the client is told what is asked.
- legacy client, modern upstream: the client is asked on its stream, and the upstream is called again.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from gateway.mcp.catalogue import Entry
from gateway.mcp.held_calls import HOLD_SECONDS, HeldCall, HeldCalls
from gateway.mcp.messages import (
    INVALID_PARAMS,
    Message,
    Params,
    Rejected,
    Reply,
    Request,
    encode,
    encode_request,
)
from gateway.mcp.request import RequestContext
from gateway.mcp.request_state import RequestStates, State, binding_of
from gateway.mcp.results import members, says
from gateway.mcp.sessions import Session, owner_of
from gateway.mcp.streams import EventStream

STATE_SECONDS: Final = 3600.0
"""How long a client may take to call a modern upstream again, as far as the gateway is concerned."""
MAX_ROUNDS: Final = 10
"""How often a modern upstream may ask a legacy client within one call."""
NEEDS: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What a server may ask, and the capability that its client must have declared."""
NOT_OURS: Final = "requestState was not given to you for this request, or is too old: send the request anew."
MISSES: Final = "The server needs something that this client has not declared."
_QUESTION: Final = "input"


class InputRounds:
    """Knows what was asked of whom, and what it was about."""

    def __init__(self, states: RequestStates, held: HeldCalls) -> None:
        self._states = states
        self._held = held

    def opened(self, request: RequestContext, entry: Entry, params: Params) -> State | None:
        """The state that a modern client hands back; None: it hands back none. Raises Rejected."""
        if "requestState" not in params:
            return None
        state = self._states.open(params["requestState"], _binding(request, entry, params))
        if state is None:
            raise Rejected(INVALID_PARAMS, NOT_OURS, request.message.id)
        return state

    def held(self, state: State | None) -> HeldCall | None:
        """The call that waits for the client's answer; None: none does, or no more."""
        return None if state is None or state.held is None else self._held.take(state.held)

    def can_hold(self, request: RequestContext, question: Request) -> bool:
        """Whether a legacy upstream's request can be put to the modern client, and its call held open meanwhile."""
        asks = request.modern and question.method in NEEDS
        return asks and self._held.room_for(request.counted)

    def hold(self, request: RequestContext, entry: Entry, params: Params, call: HeldCall) -> Reply:
        """Hold the call; the result that tells the client what is asked."""
        call.exchange.hold()
        state = self._states.seal(_binding(request, entry, params), HOLD_SECONDS, held=self._held.hold(call))
        result = {
            "resultType": "input_required",
            "inputRequests": {_QUESTION: call.asked},
            "requestState": state,
        }
        return Reply(request.message.id, result=msgspec.Raw(encode(result)))

    def sealed(self, request: RequestContext, entry: Entry, params: Params, result: bytes) -> bytes:
        """A modern upstream's result for a modern client: what it is to hand back is sealed."""
        found = members(result, "requestState")
        state = None if found is None else found.get("requestState")
        if found is None or state is None:
            return result
        text = msgspec.json.decode(state)
        if not isinstance(text, str):
            return result
        sealed = self._states.seal(_binding(request, entry, params), STATE_SECONDS, upstream=text)
        return encode({**found, "requestState": msgspec.Raw(encode(sealed))})


def missing_capability(request: RequestContext, received: Message) -> str | None:
    """What a modern client did not declare, and yet a legacy upstream asks of it."""
    if request.metadata is None or not isinstance(received, Request):
        return None
    needed = NEEDS.get(received.method)
    return None if needed in request.metadata.capabilities else needed


def answer_in(params: Params) -> Reply | None:
    """What a modern client answers to what a legacy upstream asked it; None: nothing."""
    responses = params.get("inputResponses")
    answer = responses.get(_QUESTION) if isinstance(responses, dict) else None
    return Reply(None, result=msgspec.Raw(encode(answer))) if isinstance(answer, dict) else None


def question_of(request: Request) -> dict[str, Any]:
    """A legacy upstream's request as a modern client is told of it."""
    params = {key: value for key, value in request.params.items() if key not in _LEGACY_ALONE}
    return {"method": request.method, "params": params} if params else {"method": request.method}


class Required(msgspec.Struct, rename="camel"):
    """A modern upstream's result: what it needs."""

    result_type: str
    input_requests: dict[str, dict[str, Any]] = {}
    request_state: str | None = None


def required_by(reply: Reply) -> Required | None:
    """What a modern upstream needs before it can answer; None: this is its answer."""
    if reply.result is None or not says(bytes(reply.result), "input_required"):
        return None
    try:
        said = msgspec.json.decode(reply.result, type=Required)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return said if said.result_type == "input_required" else None


class CannotAsk(Exception):  # noqa: N818 - a fact, not a fault
    """The client cannot be asked, or does not answer. Its text may be shown."""


async def ask_client(
    session: Session | None, stream: EventStream | None, required: Required
) -> dict[str, Any]:
    """Ask a legacy client all that a modern upstream needs; its answers (``inputResponses``). Raises CannotAsk."""
    if not required.input_requests:
        await asyncio.sleep(0.1)  # it only wants to be called again
        return {}
    if session is None or stream is None:
        raise CannotAsk("The server asks back: open a session, and accept text/event-stream.")
    answers: dict[str, asyncio.Future[Reply]] = {}
    asked: list[str] = []
    try:
        for name, question in required.input_requests.items():
            answers[name] = asyncio.get_running_loop().create_future()
            ours = session.ask(_into(answers[name]))
            if ours is None or question.get("method") not in NEEDS:
                raise CannotAsk("The server asks more than this client can be asked.")
            asked.append(ours)
            await stream.send(encode_request(ours, question["method"], _legacy_params(question, ours)))
        async with asyncio.timeout(HOLD_SECONDS):
            replies = {name: await answer for name, answer in answers.items()}
    except TimeoutError:
        raise CannotAsk("The client did not answer what the server asked.") from None
    finally:
        for ours in asked:
            session.asked.pop(ours, None)
    return {name: _response(required.input_requests[name], reply) for name, reply in replies.items()}


def _into(answer: asyncio.Future[Reply]) -> Any:
    async def take(reply: Reply) -> None:
        if not answer.done():
            answer.set_result(reply)

    return take


def _legacy_params(question: dict[str, Any], ours: str) -> Params:
    params = question.get("params")
    params = params if isinstance(params, dict) else {}
    return {**params, "elicitationId": ours} if params.get("mode") == "url" else params


def _response(question: dict[str, Any], reply: Reply) -> object:
    if reply.result is not None:
        return reply.result
    if question["method"] == "elicitation/create":
        return {"action": "cancel"}
    raise CannotAsk("The client refused what the server asked.")


def _binding(request: RequestContext, entry: Entry, params: Params) -> bytes:
    owner = owner_of(request.client)
    return binding_of(owner, entry.upstream, request.message.method, entry.original, params)


_LEGACY_ALONE: Final = frozenset({"_meta", "task", "elicitationId"})
