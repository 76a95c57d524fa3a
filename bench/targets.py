"""A target: a server that answers the same ``tools/call``, directly or by passing it on to the same upstream."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.identities import Identities
from bench.load import Request
from bench.machine import Failed, Server, python_module
from bench.upstream import PATH, READY

CALL: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "echo", "arguments": {"text": "hello"}},
}
ANSWER: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "result": {"content": [{"type": "text", "text": "hello"}], "isError": False},
}
HEALTH: Final = "/health/live"


@dataclass(frozen=True, slots=True)
class Target:
    """A running server. ``identities`` None: plain HTTP, no certificates."""

    name: str
    server: Server
    origin: str
    token: str = field(repr=False)
    identities: Identities | None

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self.origin.rpartition(":")[2])

    def call(self) -> Request:
        """The ``tools/call`` that is measured; its answer was asked for once and found right.

        Raises:
            Failed: The answer is not what the tool says.
        """
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {self.token}",
        }
        body = json.dumps(CALL, separators=(",", ":"))
        answer = self.ask("POST", PATH, headers, body)
        if _parsed(answer) != ANSWER:
            raise Failed(f"{self.name}: a wrong answer to tools/call: {answer[:300]}")
        return self._request("POST", PATH, headers, body, answer)

    def greeting(self) -> Request:
        """The cheapest request that the target answers itself, on a connection of its own.

        Raises:
            Failed: It does not answer 200.
        """
        headers = {"Connection": "close"}
        return self._request("GET", HEALTH, headers, "", self.ask("GET", HEALTH, headers, ""))

    def ask(self, method: str, path: str, headers: dict[str, str], body: str) -> str:
        """One request on a connection of its own; returns the body of the 200.

        Raises:
            Failed: Any other status, or no answer.
        """
        connection = self.connect()
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            text = response.read().decode()
        except OSError as error:
            raise Failed(f"{self.name}: no answer to {method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise Failed(f"{self.name}: {method} {path} was answered {response.status}: {text[:300]}")
        return text

    def connect(self) -> http.client.HTTPConnection:
        """A client for one connection, with the client's certificate where there is one."""
        address = urllib.parse.urlsplit(self.origin).netloc
        if self.identities is None:
            return http.client.HTTPConnection(address, timeout=10)
        return http.client.HTTPSConnection(address, timeout=10, context=self.identities.context())

    def _request(self, method: str, path: str, headers: dict[str, str], body: str, expected: str) -> Request:
        client = None if self.identities is None else self.identities.client
        return Request(self.origin + path, method, headers, body, expected, client)


@contextlib.contextmanager
def direct(
    folder: Path, core: int, identities: Identities, name: str = "direct", *, modern: bool = False
) -> Iterator[Target]:
    """The upstream by itself, without TLS.

    Raises:
        Unavailable: It does not start.
    """
    log = folder / f"{name}.log"
    options = ["--modern"] if modern else []
    with Server(name, python_module("bench.upstream", *options), core=core, log=log) as server:
        yield Target(name, server, f"http://127.0.0.1:{server.line(READY)}", identities.token(), None)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
