"""One call at the conformance upstream, whatever the era, and the way back to its client."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
import zlib
from typing import Any, Protocol

JSON = dict[str, Any]
INVALID_PARAMS = -32602
MISSING_CAPABILITY = -32021


class RpcError(Exception):
    """Becomes a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class InputRequiredError(Exception):
    """Becomes an ``input_required`` result: the client shall answer, and call again."""

    def __init__(self, requests: JSON, state: str | None = None) -> None:
        super().__init__("input required")
        self.requests = requests
        self.state = state


class Seal:
    """Makes ``requestState`` that nobody else can make."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def make(self, value: str) -> str:
        return f"{value}.{self._mac(value)}"

    def open(self, state: str | None) -> str:
        """The value that was sealed. Raises RpcError."""
        value, _, mac = (state or "").rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(value).encode()):
            raise RpcError(INVALID_PARAMS, "The requestState is not one of this server's.")
        return value

    def _mac(self, value: str) -> str:
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()


class Call(Protocol):
    """One request of a tool or prompt, and the way back to its client."""

    name: str
    arguments: JSON
    meta: JSON
    capabilities: JSON
    responses: JSON
    """What the client answered to an ``input_required`` result, by key (modern era)."""
    state: str | None
    """The ``requestState`` that came back."""
    seal: Seal
    extra: set[str]
    """The tools and prompts that are there for now."""

    async def notify(self, method: str, params: JSON) -> None:
        """Send a notification that belongs to this call."""

    async def log(self, text: str) -> None:
        """Send a log message, where the client wants any."""

    async def ask(self, key: str, method: str, params: JSON) -> JSON:
        """Ask the client. Raises InputRequired, RpcError."""

    async def announce(self, method: str, params: JSON | None = None) -> None:
        """Tell every client that listens for it."""


# -- content, and what clients are asked -----------------------------------------------------------------------------


def text(value: str) -> JSON:
    return {"type": "text", "text": value}


def result(*content: JSON) -> JSON:
    return {"content": list(content)}


def _png() -> str:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00\xff\x00\x00")
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(image).decode()


def _wav() -> str:
    """One silent sample."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    data = struct.pack("<4sIh", b"data", 2, 0)
    return base64.b64encode(
        struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data
    ).decode()


PNG = _png()
WAV = _wav()
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}


def form(message: str, required: list[str] | None = None, **properties: JSON) -> JSON:
    """The parameters of an elicitation."""
    schema = {"type": "object", "properties": properties, "required": required or list(properties)}
    return {"mode": "form", "message": message, "requestedSchema": schema}


def sampling(prompt: str, tokens: int = 100) -> JSON:
    """The parameters of a sampling request."""
    return {"messages": [{"role": "user", "content": text(prompt)}], "maxTokens": tokens}


STRING: JSON = {"type": "string"}
NAME = form("What is your name?", name=STRING)
