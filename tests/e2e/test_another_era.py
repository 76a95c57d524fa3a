"""An upstream that is replaced by one of the other era is back at the next call, for clients of both eras."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from tests.modern import Modern

CONFIG = """
[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = "far_"
timeout = "10s"

[[tools]]
match = "far_echo"
access = "public"
"""


def test_it_comes_back(home: Any, start_script: Callable[..., Any], caller: Callable[..., Any]) -> None:
    server = start_script("tests/servers/everything.py", "http", "0", "legacy")
    home.configure(CONFIG.format(url=server.url))
    anybody = caller(home.serve())
    call = {"name": "far_echo", "arguments": {"text": "here"}}
    port = server.url.split(":")[2].split("/")[0]
    for next_era in ("modern", "legacy", None):
        assert anybody.call("far_echo", {"text": "here"})["result"]["content"][0]["text"] == "here"
        assert Modern(anybody).result("tools/call", call)["content"][0]["text"] == "here"
        assert anybody.tools() == ["far_echo"]
        server.process.kill()
        server.process.wait()
        if next_era is not None:
            server = start_script("tests/servers/everything.py", "http", port, next_era)


WATCHED = "test://watched-resource"
EVERYTHING_PUBLIC = """
[[tools]]
match = "*"
access = "public"

[[resources]]
match = "*"
access = "public"
"""
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


def test_it_goes_on_telling_of_what_a_session_subscribed_to(
    home: Any, start_script: Callable[..., Any], caller: Callable[..., Any]
) -> None:
    def start(era: str, port: str = "0") -> Any:
        return start_script("tests/conformance/server.py", "--era", era, "--port", port)

    server = start("legacy")
    port = server.url.split(":")[2].split("/")[0]
    home.configure(CONFIG.format(url=server.url) + EVERYTHING_PUBLIC)
    served = home.serve()
    anybody = caller(served)
    session = anybody.rpc("initialize", HELLO).headers["mcp-session-id"]
    connection = http.client.HTTPSConnection("localhost", served.port, context=home.tls(), timeout=60)
    connection.request("GET", "/mcp", None, {"Accept": "text/event-stream", "Mcp-Session-Id": session})
    stream = connection.getresponse()
    told: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        while line := stream.readline().decode():
            if line.startswith("data: {"):
                told.put(json.loads(line[6:])["params"]["uri"])

    reader = Thread(target=read)
    reader.start()
    assert anybody.rpc("resources/subscribe", {"uri": WATCHED}, session=session).json["result"] == {}
    for next_era in ("legacy", "modern", None):
        for _ in range(100):
            call = {"name": "far_test_trigger_resource_update"}
            assert "result" in anybody.rpc("tools/call", call, session=session).json
            try:
                assert told.get(timeout=0.1) == WATCHED
                break
            except Empty:
                continue
        else:
            raise AssertionError("it tells of nothing any more")
        server.process.kill()
        server.process.wait()
        while not told.empty():
            told.get()
        if next_era is not None:
            server = start(next_era, port)
    anybody.ask("DELETE", "/mcp", headers={"Mcp-Session-Id": session})
    reader.join()
    connection.close()
