"""In which era a message is, and whether a modern request is whole (MCP 2026-07-28, basic/versioning). Sans I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateway.mcp.eras import (
    CLIENT_CAPABILITIES,
    LEGACY,
    LEVELS,
    LOG_LEVEL,
    META,
    MODERN,
    PROTOCOL_VERSION,
    Dialect,
)
from gateway.mcp.messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY_VERSIONS,
    METHOD_NOT_FOUND,
    MODERN_VERSIONS,
    UNSUPPORTED_VERSION,
    Message,
    Rejected,
    Reply,
    Request,
)
from gateway.mcp.mirrored import METHOD_HEADER, VERSION_HEADER, Headers, check_request

_MODERN_ALONE: Final = MODERN.methods - LEGACY.methods


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a modern request says of itself in ``_meta``."""

    capabilities: dict[str, Any]
    """What its client can do."""
    log_level: str | None
    """The least level of log messages that it wants; None: it wants none."""


def dialect_of(message: Message, headers: Headers) -> Dialect:
    """The era in which a client's message is. A version that nobody knows is a modern one: that era refuses it."""
    versions = headers.getall(VERSION_HEADER, [])
    if any(version not in LEGACY_VERSIONS for version in versions):
        return MODERN
    if isinstance(message, Request) and (message.method in _MODERN_ALONE or _says_version(message)):
        return MODERN
    return LEGACY


def read_modern(message: Message, headers: Headers) -> Metadata | None:
    """What the request says of itself; None for a notification. Raises Rejected."""
    if isinstance(message, Reply):
        raise Rejected(INVALID_REQUEST, "A client sends no responses in this revision.")
    said = headers.getall(VERSION_HEADER, [])
    if not isinstance(message, Request):
        _check_version(said[0] if said else "", None)
        return None
    if message.method not in MODERN.methods and headers.getall(METHOD_HEADER, [message.method]) == [
        message.method
    ]:
        raise Rejected(METHOD_NOT_FOUND, f"Unknown method: {message.method}", message.id)
    meta = message.params.get("_meta")
    meta = meta if isinstance(meta, dict) else {}
    version = meta.get(PROTOCOL_VERSION)
    if version is None and len(said) == 1:
        _check_version(said[0], message)
    capabilities = meta.get(CLIENT_CAPABILITIES)
    if not isinstance(version, str) or not isinstance(capabilities, dict):
        detail = f"params._meta must have {PROTOCOL_VERSION}, a string, and {CLIENT_CAPABILITIES}, an object."
        raise Rejected(INVALID_PARAMS, detail, message.id)
    check_request(headers, version, message.method, message.params, message.id)
    _check_version(version, message)
    level = meta.get(LOG_LEVEL)
    if level is not None and level not in LEVELS:
        raise Rejected(INVALID_PARAMS, f"{LOG_LEVEL} must be one of {', '.join(LEVELS)}.", message.id)
    return Metadata(capabilities, level)


def _check_version(version: str, message: Request | None) -> None:
    if version in MODERN_VERSIONS:
        return
    message_id = None if message is None else message.id
    if version in LEGACY_VERSIONS or not version:
        detail = f"Header mismatch: {VERSION_HEADER} does not say what the body says."
        raise Rejected(HEADER_MISMATCH, detail, message_id)
    supported = [*MODERN_VERSIONS, *LEGACY_VERSIONS]
    raise Rejected(
        UNSUPPORTED_VERSION,
        f"Unsupported protocol version: this gateway speaks {', '.join(supported)}.",
        message_id,
        {"supported": supported, "requested": version},
    )


def _says_version(request: Request) -> bool:
    meta = request.params.get("_meta")
    return isinstance(meta, dict) and any(key.startswith(META) for key in _KEYS if key in meta)


_KEYS: Final = (PROTOCOL_VERSION, CLIENT_CAPABILITIES)
