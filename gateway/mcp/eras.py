"""The two eras of MCP: what differs between them, in two small tables, and how a message of one becomes one of the other.

- *legacy* (2025-03-26 to 2025-11-25): a handshake, sessions, servers that send requests to their clients.
- *modern* (2026-07-28): no state; every request says in ``_meta`` which revision it is in and what its client can do,
  and every result of what type it is. A server that needs something of its client says so in a result.

Everything else is the same, and is written once. Sans I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import msgspec

from gateway import __version__
from gateway.mcp.messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    LEGACY_VERSIONS,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    MODERN_VERSIONS,
    RESOURCE_NOT_FOUND,
    UNSUPPORTED_VERSION,
    Params,
    encode,
)
from gateway.mcp.results import members, says, with_members

META: Final = "io.modelcontextprotocol/"
PROTOCOL_VERSION: Final = f"{META}protocolVersion"
CLIENT_INFO: Final = f"{META}clientInfo"
CLIENT_CAPABILITIES: Final = f"{META}clientCapabilities"
LOG_LEVEL: Final = f"{META}logLevel"
SERVER_INFO: Final = f"{META}serverInfo"
SUBSCRIPTION_ID: Final = f"{META}subscriptionId"
IDENTITY: Final = {"name": "ostiary", "title": "Ostiary", "version": __version__}
"""The gateway, as a server to its clients."""
CLIENT: Final = {"name": "ostiary", "version": __version__}
"""The gateway, as a client to its upstreams."""

LISTEN: Final = "subscriptions/listen"
ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
LIST_CHANGES: Final = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
"""All lists, as a SubscriptionFilter."""

LOG_MESSAGE: Final = "notifications/message"
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Of log messages, from the least (RFC 5424 section 6.2.1)."""

_BOTH: Final = frozenset(
    {
        "tools/list",
        "tools/call",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "completion/complete",
    }
)


class Era(StrEnum):
    """Which of the two."""

    LEGACY = "legacy"
    MODERN = "modern"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an era is spoken to a client."""

    era: Era
    versions: tuple[str, ...]
    """Newest first."""
    methods: frozenset[str]
    """What a client may ask."""
    unknown_resource: int
    """The JSON-RPC code for a resource that does not exist."""
    statuses: Mapping[int, int]
    """The HTTP status of an answer with that JSON-RPC code; 200 where there is none."""


LEGACY: Final = Dialect(
    Era.LEGACY,
    LEGACY_VERSIONS,
    _BOTH
    | {"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}
    | {"tasks/get", "tasks/result", "tasks/cancel"},
    unknown_resource=RESOURCE_NOT_FOUND,
    statuses={},
)
MODERN: Final = Dialect(
    Era.MODERN,
    MODERN_VERSIONS,
    _BOTH | {"server/discover", LISTEN, "tasks/get", "tasks/update", "tasks/cancel"},
    unknown_resource=INVALID_PARAMS,
    statuses={
        METHOD_NOT_FOUND: 404,
        HEADER_MISMATCH: 400,
        MISSING_CAPABILITY: 400,
        UNSUPPORTED_VERSION: 400,
    },
)

NOT_KEPT: Final[dict[str, Any]] = {"ttlMs": 0, "cacheScope": "private"}
"""Of the gateway's own results: what a caller may have can change at any time, and is its own alone."""

ASKING: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""What may be answered with ``input_required``."""
CACHEABLE: Final = frozenset({"resources/read"})
"""What is forwarded and whose results say for how long they may be kept (lists and discovery are the gateway's own)."""


def as_legacy_request(params: Params) -> Params:
    """The parameters of a modern request, for a legacy upstream."""
    kept = {key: value for key, value in params.items() if key not in _MODERN_PARAMS}
    meta = params.get("_meta")
    if isinstance(meta, dict):
        kept["_meta"] = {key: value for key, value in meta.items() if key not in _REQUEST_META}
        if not kept["_meta"]:
            del kept["_meta"]
    return kept


def as_modern_request(params: Params, capabilities: bytes, log_level: str | None = None) -> Params:
    """The parameters of a legacy request, or of one of the gateway's own, for a modern upstream.

    ``capabilities``: the client's, as JSON.
    """
    meta = params.get("_meta")
    added: dict[str, Any] = {
        PROTOCOL_VERSION: MODERN_VERSIONS[0],
        CLIENT_INFO: CLIENT,
        CLIENT_CAPABILITIES: msgspec.Raw(capabilities),
    }
    if log_level is not None:
        added[LOG_LEVEL] = log_level
    kept = {key: value for key, value in params.items() if key != "task"}
    return {**kept, "_meta": {**(meta if isinstance(meta, dict) else {}), **added}}


@lru_cache(maxsize=256)
def modern_capabilities(declared: bytes) -> bytes:
    """What a legacy client declared, as JSON, in the words of the modern era."""
    capabilities: dict[str, Any] = msgspec.json.decode(declared)
    capabilities.pop("tasks", None)
    if "roots" in capabilities:
        capabilities["roots"] = {}
    return encode(capabilities)


def as_modern_result(result: bytes, *, upstream: Era, cacheable: bool) -> bytes:
    """A ``plain`` result for a modern client. What it may keep is its own alone: another caller may not have it."""
    if upstream is Era.MODERN and not cacheable and says(result, "resultType"):
        return result
    found = members(result, *_MODERN_RESULT)
    if found is None:
        kept, told = _KEPT if cacheable else b"", b"" if says(result, "_meta") else _SERVER
        return with_members(result, b'"resultType":"complete"' + kept + told)
    if upstream is Era.LEGACY or "resultType" not in found:
        found["resultType"] = _COMPLETE
    if cacheable and found["resultType"] == _COMPLETE:
        found.setdefault("ttlMs", msgspec.Raw(b"0"))
        found.setdefault("cacheScope", _PRIVATE)
    if "cacheScope" in found:
        found["cacheScope"] = _PRIVATE
    return encode(found)


def as_legacy_result(result: bytes) -> bytes:
    """A ``plain`` result of a modern upstream for a legacy client."""
    found = members(result, *_MODERN_RESULT)
    if found is None:
        return result
    return encode({name: value for name, value in found.items() if name not in _MODERN_RESULT})


def own_result(result: dict[str, Any]) -> dict[str, Any]:
    """A result of the gateway's own, for a modern client."""
    return {"resultType": "complete", **result, "_meta": {SERVER_INFO: IDENTITY, **result.get("_meta", {})}}


def at_least(level: object, wanted: str | None) -> bool:
    """Whether a log message of that level is to be sent to a client that asked for ``wanted``."""
    if wanted not in LEVELS or level not in LEVELS:
        return False
    return LEVELS.index(str(level)) >= LEVELS.index(wanted)


_MODERN_PARAMS: Final = frozenset({"_meta", "inputResponses", "requestState", "task"})
"""What a legacy upstream is not told. ``task`` asks for a task of its era, which a modern client could not have."""
_REQUEST_META: Final = frozenset({PROTOCOL_VERSION, CLIENT_INFO, CLIENT_CAPABILITIES, LOG_LEVEL})
_MODERN_RESULT: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
_COMPLETE: Final = msgspec.Raw(b'"complete"')
_PRIVATE: Final = msgspec.Raw(b'"private"')
_KEPT: Final = b',"ttlMs":0,"cacheScope":"private"'
_SERVER: Final = b',"_meta":' + encode({SERVER_INFO: IDENTITY})
