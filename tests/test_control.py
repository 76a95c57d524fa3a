"""The control socket: who may speak over it, what it makes of bad input, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.operations.administration import OperationError
from gateway.operations.control import (
    MAX_ANSWER_BYTES,
    MAX_CONNECTIONS,
    MAX_REQUEST_BYTES,
    ControlServer,
    NoServer,
    ask,
)
from persistence.records import StoreError

ME = pwd.getpwuid(os.geteuid()).pw_name


async def perform(operation: str, parameters: object, actor: str) -> dict[str, Any]:
    """Answers what it was asked; some operations fail in each of the ways there are."""
    match operation:
        case "refuse":
            raise OperationError("there is no client of that name")
        case "store":
            raise StoreError("tokens.json: the disk is full; make room")
        case "break":
            raise RuntimeError("a secret detail")
        case "large":
            return {"text": "x" * MAX_ANSWER_BYTES}
        case "wait":
            await asyncio.Event().wait()
    return {"operation": operation, "parameters": parameters, "actor": actor}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store's folder whose path is far longer than a socket's may be."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True, mode=0o700)
    return deep


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(folder, perform)
    await server.start()
    yield server
    await server.close()


def raw(folder: Path, send: bytes) -> bytes:
    """Everything that the server answers to some bytes, up to where it closes or we have one line for each."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(f"/proc/self/fd/{descriptor}/control.sock")
            connection.sendall((folder / "control.key").read_bytes() + b"\n" + send)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))
    finally:
        os.close(descriptor)


async def converse(folder: Path, send: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await asyncio.to_thread(raw, folder, send)).splitlines()]


async def test_an_operation_is_performed_for_the_user_whom_the_kernel_names(
    server: ControlServer, folder: Path
) -> None:
    answer = await ask(folder, "clients.show", {"client_id": "bob"})
    assert answer == {"operation": "clients.show", "parameters": {"client_id": "bob"}, "actor": ME}


@pytest.mark.parametrize("key", [b"", b"wrong", b'{"operation": "a"}'])
async def test_without_the_key_nothing_is_done(server: ControlServer, folder: Path, key: bytes) -> None:
    """Who runs as the same user, but cannot read the store's folder, such as a confined child."""

    def try_it() -> bytes:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(20)
                connection.connect(f"/proc/self/fd/{descriptor}/control.sock")
                connection.sendall(key + b'\n{"operation": "a"}\n')
                return b"".join(iter(lambda: connection.recv(65536), b""))
        finally:
            os.close(descriptor)

    (answer,) = [json.loads(line) for line in (await asyncio.to_thread(try_it)).splitlines()]
    assert "control.key" in answer["error"]


async def test_the_key_is_the_owners_alone_and_another_each_time(folder: Path) -> None:
    keys = set()
    for _ in range(2):
        server = ControlServer(folder, perform)
        await server.start()
        assert stat.S_IMODE((folder / "control.key").stat().st_mode) == 0o600
        keys.add((folder / "control.key").read_bytes())
        await server.close()
        assert not (folder / "control.key").exists()
    assert len(keys) == 2
    assert all(len(key) >= 43 for key in keys)


async def test_one_connection_carries_many_requests(server: ControlServer, folder: Path) -> None:
    lines = b'{"operation": "a"}\n{"operation": "refuse", "parameters": {}}\n{"operation": "b"}\n'
    first, second, third = await converse(folder, lines)
    assert first["result"]["operation"] == "a"
    assert second == {"error": "there is no client of that name"}
    assert third["result"]["operation"] == "b"


async def test_the_socket_is_the_owners_alone_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        server = ControlServer(folder, perform)
        await server.start()
    finally:
        os.umask(before)
    status = (folder / "control.sock").stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    await server.close()
    assert not (folder / "control.sock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_refused(server: ControlServer, folder: Path) -> None:
    # So that it is the socket that refuses, not the folders above it: connect as root, but vouch as nobody.
    program = (
        "import os, socket, sys\n"
        "folder = os.open(sys.argv[1], os.O_RDONLY)\n"
        "os.setresuid(65534, 65534, 0)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "s.connect(f'/proc/self/fd/{folder}/control.sock')\n"
    )
    for path in (folder, *folder.parents):
        if path != Path("/"):
            path.chmod(path.stat().st_mode | 0o755)
    (folder / "control.sock").chmod(0o666)
    child = await asyncio.create_subprocess_exec(
        "python3",
        "-c",
        program + "print(s.recv(4096).decode())",
        str(folder),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    assert b"only the gateway's own user and root may do this" in out, err


async def test_the_errors_of_an_operation_come_over_in_its_words(server: ControlServer, folder: Path) -> None:
    with pytest.raises(OperationError, match="there is no client of that name"):
        await ask(folder, "refuse", {})
    with pytest.raises(OperationError, match="the disk is full; make room"):
        await ask(folder, "store", {})
    with pytest.raises(OperationError, match="the answer is too large"):
        await ask(folder, "large", {})


async def test_a_fault_in_the_server_is_told_without_its_details(
    server: ControlServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OperationError) as caught:
        await ask(folder, "break", {})
    assert "secret" not in str(caught.value)
    assert (await ask(folder, "go on", {}))["operation"] == "go on"
    assert "break" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"operation": 1}\n',
        b'{"operation": "a", "parameters": []}\n',
        b'{"operation": "a", "more": 1}\n',
        b'{"operation": "\xff"}\n',
        b"[" * 60_000 + b"\n",
    ],
)
async def test_bad_input_is_answered_and_the_server_goes_on(
    server: ControlServer, folder: Path, line: bytes
) -> None:
    bad, good = await converse(folder, line + b'{"operation": "good"}\n')
    assert "a request is a line of JSON" in bad["error"]
    assert good["result"]["operation"] == "good"


async def test_a_request_that_is_too_long_ends_its_connection_only(
    server: ControlServer, folder: Path
) -> None:
    (answer,) = await converse(folder, b"x" * (MAX_REQUEST_BYTES + 1) + b"\n")
    assert "at most" in answer["error"]
    with pytest.raises(OperationError, match="too much"):
        await ask(folder, "a", {"text": "x" * MAX_REQUEST_BYTES})
    assert (await ask(folder, "a", {}))["operation"] == "a"


async def test_half_a_request_gets_no_answer(server: ControlServer, folder: Path) -> None:
    assert await converse(folder, b'{"operation": "a"') == []
    assert await converse(folder, b"") == []


@given(garbage=st.binary(max_size=300))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_never_ends_the_server(folder: Path, garbage: bytes) -> None:
    async def scenario() -> None:
        server = ControlServer(folder, perform)
        await server.start()
        try:
            for answer in await converse(folder, garbage):
                assert "error" in answer
            assert (await ask(folder, "a", {}))["operation"] == "a"
        finally:
            await server.close()

    asyncio.run(scenario())


async def test_too_many_at_once_are_told_to_try_again(server: ControlServer, folder: Path) -> None:
    waiting = [asyncio.create_task(ask(folder, "wait", {})) for _ in range(MAX_CONNECTIONS + 1)]
    (refused,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert "try again" in str(refused.exception())
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_closing_ends_what_is_under_way(folder: Path) -> None:
    server = ControlServer(folder, perform)
    await server.start()
    waiting = asyncio.create_task(ask(folder, "wait", {}))
    await ask(folder, "a", {})
    await server.close()
    with pytest.raises(OSError, match="look whether it was done"):
        await waiting


async def test_where_nobody_listens_there_is_no_server(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NoServer):
        await ask(folder, "a", {})
    with pytest.raises(NoServer):
        await ask(tmp_path / "nowhere", "a", {})


async def test_what_a_killed_server_left_behind_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        descriptor = os.open(folder, os.O_RDONLY)
        dead.bind(f"/proc/self/fd/{descriptor}/control.sock")
        os.close(descriptor)
    with pytest.raises(NoServer):
        await ask(folder, "a", {})
    server = ControlServer(folder, perform)
    await server.start()
    assert (await ask(folder, "a", {}))["operation"] == "a"
    await server.close()


async def test_a_file_in_the_sockets_place_is_left_alone(folder: Path) -> None:
    (folder / "control.sock").write_text("mine")
    with pytest.raises(OSError, match="in use"):
        await ControlServer(folder, perform).start()
    assert (folder / "control.sock").read_text() == "mine"


async def test_a_newer_servers_socket_is_not_removed(folder: Path) -> None:
    older, newer = ControlServer(folder, perform), ControlServer(folder, perform)
    await older.start()
    await newer.start()
    await older.close()
    assert (await ask(folder, "a", {}))["operation"] == "a"
    await newer.close()
    await newer.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_is_the_same_on_either_loop(folder: Path, run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = ControlServer(folder, perform)
        await server.start()
        assert (await ask(folder, "a", {}))["actor"] == ME
        (bad,) = await converse(folder, b"x\n")
        assert "error" in bad
        waiting = asyncio.create_task(ask(folder, "wait", {}))
        await ask(folder, "b", {})
        await server.close()
        with pytest.raises(OSError, match="look whether it was done"):
            await waiting
        assert not (folder / "control.sock").exists()

    run(scenario())
