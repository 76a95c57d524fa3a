"""What is asked of an upstream for a client."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from gateway.mcp.catalogue import Entry
from gateway.mcp.eras import as_modern_request, modern_capabilities
from gateway.mcp.messages import Params, Reply
from gateway.mcp.mirrored import argument_headers
from gateway.mcp.request import RequestContext
from gateway.mcp.request_state import State
from gateway.mcp.transit import Parcel
from gateway.mcp.upstream import Fields

OnReply = Callable[[Reply], None]


class UpstreamCall(msgspec.Struct, frozen=True, eq=False):
    """What is asked of an upstream for a client, and under which name the audit knows it."""

    entry: Entry
    params: Params
    """As the client sent them, with the upstream's name."""
    event: str
    state: State | None
    """What the client handed back, where it calls again."""
    parcel: Parcel
    """What counts the answer."""
    on_reply: OnReply
    """Is given what the upstream answered, as far as it did."""


def for_modern_upstream(request: RequestContext, call: UpstreamCall) -> Params:
    """The parameters of the call, for a modern upstream."""
    if request.modern:
        params = dict(call.params)
        if params.pop("requestState", None) is not None and call.state is not None:
            params["requestState"] = call.state.upstream
        return params
    session = request.session
    if session is None:
        return as_modern_request(call.params, b"{}")
    capabilities = session.key.capabilities if request.accepts_stream else b"{}"
    return as_modern_request(call.params, modern_capabilities(capabilities), session.log_level)


def fields_of(call: UpstreamCall) -> Fields:
    """What the call's headers repeat of its arguments."""
    mirrored = call.entry.mirrored
    return argument_headers(mirrored, call.params.get("arguments")) if mirrored else ()


_WITH_ARGUMENTS: Final = frozenset({"tool_call", "prompt_get"})
_sorted = msgspec.json.Encoder(order="sorted").encode


def digest_of(call: UpstreamCall) -> str | UnsetType:
    """SHA-256 of the arguments, in hex, of a request that has any."""
    if call.event not in _WITH_ARGUMENTS:
        return UNSET
    return hashlib.sha256(_sorted(call.params.get("arguments") or {})).hexdigest()
