"""What an upstream asks during a call: whose time it costs."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock, Mock

from gateway.mcp.meanwhile import Meanwhile
from gateway.mcp.messages import Reply, Request
from gateway.mcp.sessions import Sessions
from gateway.mcp.tasks import Tasks
from gateway.mcp.time_limit import TimeLimit
from gateway.model import ClientContext


async def test_a_question_that_cannot_be_put_ends_no_time_of_the_others() -> None:
    time = TimeLimit(asyncio.get_running_loop(), "files", 60.0)
    time.begin()
    client = ClientContext(client_id="c")
    session = Sessions(monotonic=lambda: 0.0).open(client, None, "2025-11-25")
    upstream = Mock(respond=AsyncMock())
    catalogue: Any = Mock(upstream=lambda _name: upstream)
    tasks: Any = Mock(spec=Tasks, params=lambda *given: given[-1], answer=lambda *given: given[-1])
    request: Any = Mock(session=session, accepts_stream=True, client=client)
    stream: Any = Mock(gone=False, send=AsyncMock())
    exchange: Any = time
    with Meanwhile(
        catalogue, tasks, request, Mock(), stream, key=session.key, exchange=exchange
    ) as meanwhile:
        await meanwhile.pass_on(Request(1, "roots/list", {}))
        await meanwhile.pass_on(Request(2, "tasks/list", {}))
        assert upstream.respond.await_count == 1, "that cannot be asked"
        assert "client did not answer" in time.passed().detail, "it is still its turn"
        await session.asked.popitem()[1](Reply(None))
        assert "client" not in time.passed().detail
