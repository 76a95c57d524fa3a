"""Memory that idle mutual-TLS connections cost: open them, make one call on each, leave them open, and look."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import ssl
from collections.abc import Sequence

from bench.load import Request
from bench.machine import Failed
from bench.rounds import print_table
from bench.targets import Target

WARM_UP = 50
"""Connections opened and closed before the first look: what a server allocates once is not charged to the connections."""


def measure(targets: Sequence[Target], connections: int) -> None:
    """Measure and print; targets without TLS are left out.

    Raises:
        Failed: An answer was wrong, or a connection did not stay open.
    """
    _allow_open_files(connections + 200)
    print(f"memory of {connections:,} idle connections, TLS 1.3, client certificate required\n", flush=True)
    rows = [_row(target, connections) for target in targets if target.identities is not None]
    print_table(["target", "MB for 1,000 connections", "MB in all"], rows)


def _row(target: Target, connections: int) -> list[str]:
    request = target.call()
    with contextlib.ExitStack() as opened:
        for _ in range(WARM_UP):
            _open(target, request, opened)
    target.server.rest()
    before = target.server.resident_bytes()
    with contextlib.ExitStack() as opened:
        clients = [_open(target, request, opened) for _ in range(connections)]
        target.server.rest()
        after = target.server.resident_bytes()
        closed = sum(1 for client in clients if not _is_open(client))
    if closed:
        raise Failed(f"{target.name}: {closed} of {connections} idle connections were closed")
    return [target.name, f"{(after - before) / connections * 1000 / 1e6:.1f}", f"{after / 1e6:.0f}"]


def _open(target: Target, request: Request, opened: contextlib.ExitStack) -> http.client.HTTPConnection:
    client = opened.enter_context(contextlib.closing(target.connect()))
    client.request(request.method, "/" + request.url.split("/", 3)[3], request.body, request.headers)
    response = client.getresponse()
    text = response.read().decode()
    if response.status != 200 or text != request.expected:
        raise Failed(f"{target.name}: a wrong answer: {response.status} {text[:300]}")
    return client


def _is_open(client: http.client.HTTPConnection) -> bool:
    connection = client.sock
    if not isinstance(connection, socket.socket):
        return False
    connection.settimeout(0)
    try:
        connection.recv(1)
    except (ssl.SSLWantReadError, BlockingIOError):
        return True
    except OSError:
        return False
    return False


def _allow_open_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))
