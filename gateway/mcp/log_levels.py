"""Which log messages a session at a legacy upstream is asked for.

Requests of different clients may meet in one session, and those of one client differ in what they want. So a level is
only ever lowered, and who wants less is passed on less.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Final

from gateway.mcp.eras import at_least
from gateway.mcp.messages import Reply
from gateway.mcp.upstream import EraChangedError, SessionKey, Upstream, UpstreamError

LEVEL_SECONDS: Final = 1.0
"""How long the request that wants a level waits for the server to take it."""
AGAIN_SECONDS: Final = 30.0
"""After so long a server that has not answered is asked again."""


@dataclass(slots=True)
class AskedLevel:
    """What a session was asked for."""

    level: str | None = None
    """None: the server's own choice."""
    again_at: float = math.inf
    """When it is asked once more, for it may not have been reached: there was no place for the request, say."""


async def ask_for_level(upstream: Upstream, asked: AskedLevel, key: SessionKey, level: str) -> None:
    """Ask for log messages from that level on, once. A level is a wish: what else is wrong, the next call says.

    Raises EraChangedError.
    """
    now = asyncio.get_running_loop().time()
    lower = asked.level is None or not at_least(level, asked.level)
    if not lower and now < asked.again_at:
        return
    if lower:
        asked.level = level
    asked.again_at = now + AGAIN_SECONDS
    try:
        async with (
            asyncio.timeout(LEVEL_SECONDS),
            upstream.request(key, "logging/setLevel", {"level": asked.level}) as exchange,
        ):
            while not isinstance(await exchange.receive(), Reply):
                pass
    except EraChangedError:
        raise
    except (UpstreamError, TimeoutError):
        return
    asked.again_at = math.inf
