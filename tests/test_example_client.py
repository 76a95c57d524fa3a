"""The example client, against a small TLS server that asks for certificates, in front of the genealogy."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKEN = "a-token-for-this-test"


@dataclass
class Front:
    """Issues a token to whoever presents a certificate, and passes /mcp on to the server at `upstream`."""

    upstream: str
    credentials: set[tuple[bool, str | None]] = field(default_factory=set)
    """Of each request for /mcp: whether a certificate was presented, and its Authorization."""

    async def issue_token(self, request: web.Request) -> web.Response:
        if not self._certificate(request):
            return web.json_response({"error": "invalid_client"}, status=401)
        return web.json_response({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600})

    async def forward(self, request: web.Request) -> web.StreamResponse:
        self.credentials.add((self._certificate(request), request.headers.get("Authorization")))
        sent = ("Accept", "Content-Type", "Mcp-Session-Id", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name")
        headers = {name: request.headers[name] for name in sent if name in request.headers}
        async with (
            aiohttp.ClientSession() as http,
            http.request(request.method, self.upstream, headers=headers, data=await request.read()) as answer,
        ):
            kept = ("Content-Type", "Mcp-Session-Id")
            headers = {name: answer.headers[name] for name in kept if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    @staticmethod
    def _certificate(request: web.Request) -> bool:
        assert request.transport is not None
        return bool(request.transport.get_extra_info("peercert"))


@dataclass(frozen=True)
class Gate:
    """The front, where it listens, and the files of a client."""

    front: Front
    url: str
    trust: tuple[str, ...]
    certificate: tuple[str, ...]


@pytest.fixture
async def gate(start_script: Callable[..., Any], tmp_path: Path) -> AsyncIterator[Gate]:
    front = Front(start_script(str(EXAMPLES / "genealogy" / "mcp_server.py"), "--port", "0").url)
    ca = trustme.CA()
    client = ca.issue_cert("alice@example.org")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "alice.pem")
    client.private_key_pem.write_to_path(tmp_path / "alice.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_OPTIONAL
    ca.issue_cert("localhost").configure_cert(context)
    ca.configure_trust(context)

    app = web.Application()
    app.add_routes([web.get("/auth/token", front.issue_token), web.route("*", "/mcp", front.forward)])
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener, ssl_context=context).start()
    yield Gate(
        front,
        f"https://localhost:{listener.getsockname()[1]}/mcp",
        ("--ca", str(tmp_path / "ca.pem")),
        ("--cert", str(tmp_path / "alice.pem"), "--key", str(tmp_path / "alice.key")),
    )
    await runner.cleanup()


async def run(gate: Gate, *options: str) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of the client."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / "client.py"), "--url", gate.url, *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_tools_are_listed_with_a_certificate(gate: Gate) -> None:
    code, out, err = await run(gate, *gate.trust, *gate.certificate)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [
        "list_persons",
        "find_person",
        "ancestors",
        "add_person",
        "slow_count",
    ]
    assert gate.front.credentials == {(True, None)}


async def test_a_tool_is_called_with_certificate_and_token(gate: Gate) -> None:
    options = ("--token", "--tool", "find_person", "--arguments", '{"key": "Claire.0.Martin"}')
    code, out, err = await run(gate, *gate.trust, *gate.certificate, *options)
    assert (code, err) == (0, "")
    assert json.loads(out)["person"]["occupation"] == "cartographer"
    assert gate.front.credentials == {(True, f"Bearer {TOKEN}")}


async def test_without_a_certificate_there_is_no_credential(gate: Gate) -> None:
    assert (await run(gate, *gate.trust))[0] == 0
    assert gate.front.credentials == {(False, None)}


async def test_progress_is_shown_apart_from_the_answer(gate: Gate) -> None:
    arguments = '{"seconds": 0, "steps": 2}'
    code, out, err = await run(gate, *gate.trust, "--tool", "slow_count", "--arguments", arguments)
    assert (code, json.loads(out)) == (0, {"result": "counted to 2"})
    assert err == "1/2 1 of 2\n2/2 2 of 2\n"


async def test_what_is_refused_or_wrong_is_said_in_one_line(gate: Gate) -> None:
    nobody = ("--tool", "find_person", "--arguments", '{"key": "Nobody.0.Nowhere"}')
    for options, said in [
        ((*gate.trust, *nobody), "nobody has the key"),
        ((*gate.trust, "--token"), "no token was issued: 401"),
        ((), "certificate verify failed"),
        ((*gate.trust, "--url", gate.url.replace("/mcp", "/nothing")), f"not found; is it {gate.url}?"),
        ((*gate.trust, "--url", gate.url.removesuffix("/mcp")), f"is it {gate.url}?"),
        (("--ca", "/nonexistent"), "No such file"),
        ((*gate.trust, *gate.certificate[:2]), "key"),
        ((*gate.trust, "--url", "https://localhost:1/mcp"), "connection attempts failed"),
    ]:
        code, out, err = await run(gate, *options)
        assert (code, out) == (1, ""), options
        assert said.lower() in err.lower()
        assert err.count("\n") == 1, err
