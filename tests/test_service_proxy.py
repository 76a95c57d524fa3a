"""Whose fault a slow body is: the caller's time and the service's are told apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from gateway.config.values import ServiceSettings
from gateway.edge.reply import GatewayRequest
from gateway.model import ANONYMOUS, Inbound, Reason, Refused
from gateway.outbound.client import HttpClient
from gateway.services.http import ServiceProxy
from persistence.records import AuditStatus

HEAD = b"POST /s/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@dataclass
class Journal:
    """Keeps the outcomes, each once."""

    outcomes: list[tuple[AuditStatus, str | None]] = field(default_factory=list)

    def entry(self, *_: object, **__: object) -> None: ...

    async def begin(self, *_: object) -> Journal:
        return self

    def finish(self, status: AuditStatus, reason: str | None = None) -> bool:
        if not self.outcomes:
            self.outcomes.append((status, reason))
        return True


@dataclass
class Seen:
    """What came of the one request."""

    port: int
    journal: Journal
    ended: asyncio.Future[BaseException | None]


@asynccontextmanager
async def _proxy(service: Any, *, seconds: float) -> AsyncIterator[Seen]:
    """A proxy before ``service``, a callback of asyncio.start_server, which has ``seconds`` to answer."""
    serving: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append((asyncio.create_task(service(reader, writer)), writer))

    behind = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{behind.sockets[0].getsockname()[1]}"
    journal = Journal()
    settings = ServiceSettings(name="s", prefix="/s/", url=url, timeout=seconds, read=(), write=())
    proxy = ServiceProxy(settings, HttpClient(url), journal)  # type: ignore[arg-type]
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        inbound = Inbound("id", request.method, request.raw_path, "127.0.0.1", None, None, (), (), 0.0)
        try:
            assert isinstance(request, GatewayRequest)
            answer = await proxy.forward(request, inbound, ANONYMOUS)
        except BaseException as error:
            ended.set_result(error)
            return web.Response(status=400)
        ended.set_result(None)
        return answer

    def make(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> GatewayRequest:
        return GatewayRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())

    runner = web.ServerRunner(web.Server(handle, request_factory=make), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Seen(runner.addresses[0][1], journal, ended)
    finally:
        await runner.cleanup()
        await proxy.close()
        for task, writer in serving:
            task.cancel()
            writer.transport.abort()
            await asyncio.gather(task, writer.wait_closed(), return_exceptions=True)
        behind.close()
        await behind.wait_closed()


async def _reads_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A service that answers once it has read four bytes of body."""
    await reader.readuntil(b"\r\n\r\n")
    try:
        await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except asyncio.IncompleteReadError:
        pass
    writer.close()


async def _reads_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A service that takes nothing and says nothing."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await writer.wait_closed()


async def _reads_and_is_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A service that reads to the end and says nothing."""
    await reader.read()
    writer.close()


async def test_a_body_that_does_not_come_is_the_callers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatewayRequest, "body_timeout", 0.3)
    async with _proxy(_reads_all, seconds=0.1) as seen:
        _, writer = await asyncio.open_connection("127.0.0.1", seen.port)
        writer.write(HEAD % 4 + b"sl")
        error = await seen.ended
        writer.close()
        await writer.wait_closed()
    assert isinstance(error, Refused)
    assert error.deny.reason is Reason.REQUEST_TIMEOUT
    assert seen.journal.outcomes == [(AuditStatus.TIMEOUT, Reason.REQUEST_TIMEOUT)]


async def test_a_service_that_is_silent_after_the_body_is_at_fault() -> None:
    async with _proxy(_reads_and_is_silent, seconds=0.2) as seen:
        _, writer = await asyncio.open_connection("127.0.0.1", seen.port)
        writer.write(HEAD % 4 + b"fast")
        error = await seen.ended
        writer.close()
        await writer.wait_closed()
    assert isinstance(error, Refused)
    assert error.deny.reason is Reason.UPSTREAM_TIMEOUT
    assert seen.journal.outcomes == [(AuditStatus.TIMEOUT, Reason.UPSTREAM_TIMEOUT)]


async def test_a_service_that_takes_no_body_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatewayRequest, "body_timeout", 0.5)
    size = 32 * 1024 * 1024
    async with _proxy(_reads_nothing, seconds=1.0) as seen:
        _, writer = await asyncio.open_connection("127.0.0.1", seen.port)
        writer.write(HEAD % size + bytes(size))
        error = await seen.ended
        writer.transport.abort()
    assert isinstance(error, Refused)
    assert error.deny.reason is Reason.UPSTREAM_TIMEOUT


async def test_a_caller_who_leaves_in_mid_body_has_cancelled() -> None:
    async with _proxy(_reads_all, seconds=5.0) as seen:
        _, writer = await asyncio.open_connection("127.0.0.1", seen.port)
        writer.write(HEAD % 4 + b"sl")
        await writer.drain()
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        error = await seen.ended
    assert isinstance(error, Refused)
    assert error.deny.reason is Reason.BAD_REQUEST
    assert seen.journal.outcomes == [(AuditStatus.CANCELLED, None)]
