"""An upstream that is replaced by one of the other era is back at the next call, for clients of both eras."""

from __future__ import annotations

from collections.abc import Callable
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
