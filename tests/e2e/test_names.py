"""A name that two upstreams list is nobody's, whichever is up, and before and after a restart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

SERVER = Path(__file__).parent.parent / "servers" / "named.py"
UPSTREAM = """
[[upstreams]]
name = "{name}"
transport = "stdio"
command = ["{python}", "{server}", "{name}", "{name}-is-up", {tools}]
"""
CONFIG = '[[tools]]\nmatch = "*"\naccess = "public"\n'


def _upstream(name: str, *tools: str) -> str:
    listed = ", ".join(f'"{tool}"' for tool in tools)
    return UPSTREAM.format(name=name, python=sys.executable, server=SERVER, tools=listed)


def test_a_disputed_name_is_served_by_neither_upstream(home: Any, caller: Any, wait_until: Any) -> None:
    home.configure(CONFIG + _upstream("first", "search", "one") + _upstream("second", "search", "n" * 129))
    first, second = (home.folder / f"{name}-is-up" for name in ("first", "second"))
    first.touch()
    served = home.serve()
    anybody = caller(served)
    wait_until(lambda: anybody.tools() == ["search", "one"], seconds=30)
    assert anybody.call("search")["result"]["content"][0]["text"] == "first"

    second.touch()
    wait_until(lambda: anybody.tools() == ["one"], seconds=30)
    assert anybody.call("search")["error"]["message"] == "Unknown tool: search"
    assert anybody.call("search", path="/mcp/second")["result"]["content"][0]["text"] == "second"
    ready = anybody.ask("GET", "/health/ready").json
    assert ready == {"status": "ready", "degraded": ["names:first", "names:second"]}
    log = served.log.read_text()
    assert "the tool 'search' is of upstream second and of upstream first: it is not served" in log
    entries = home.json("audit", "query", "--event", "name_held_back")["entries"]
    assert {(entry["upstream"], entry["reason"], entry["target"]) for entry in entries} == {
        ("second", "name_disputed", "tool search, also of first"),
        ("second", "name_too_long", f"tool {'n' * 128}"),
    }

    served.stop()
    first.unlink()  # what was its name stays so
    again = caller(home.serve())
    wait_until(lambda: again.ask("GET", "/health/ready").json["degraded"].count("upstream:first"))
    wait_until(lambda: len(again.tools("/mcp/second")) == 2, seconds=30)
    assert again.tools() == []
    assert again.call("search")["error"]["message"] == "Unknown tool: search"


def test_who_may_have_it_is_told_that_its_server_is_down_and_nobody_else(
    home: Any, caller: Any, wait_until: Any
) -> None:
    """Also where it has not answered since the start: its names are known from before."""
    home.configure('[[tools]]\nmatch = "open"\naccess = "public"\n' + _upstream("only", "open", "closed"))
    up = home.folder / "only-is-up"
    up.touch()
    served = home.serve()
    anybody = caller(served)
    wait_until(lambda: anybody.tools() == ["open"], seconds=30)
    served.stop()
    up.unlink()
    again = caller(home.serve())
    wait_until(lambda: again.ask("GET", "/health/ready").json["degraded"] == ["upstream:only"], seconds=30)
    told = again.call("open")["error"]
    assert told["message"] == "Upstream only is not available."
    assert told["data"]["reason"] == "upstream_unavailable"
    for name in ("closed", "other"):
        assert again.call(name)["error"]["message"] == f"Unknown tool: {name}"
    newest = home.json("audit", "query", "--event", "tool_call", "--limit", "3")["entries"]
    assert [(one["tool_name"], one["status"], one["reason"]) for one in newest] == [
        ("other", "denied", "not_found"),
        ("closed", "denied", "not_found"),
        ("open", "error", "upstream_unavailable"),
    ]


def test_what_the_configuration_says_of_names_is_checked_before_the_start(home: Any) -> None:
    home.configure(_upstream("first", "a") + _upstream("second", "b") + '\nprefix = "x_"\n')
    found = home.json("check")
    assert found["problems"] == []
    (told,) = [line for line in found["warnings"] if " prefix: " in line]
    assert '[[upstreams]] second prefix: its tools and prompts can have names of "first"' in told
    home.configure(_upstream("third", "c") + '\nprefix = "x_"\n')
    for command in ("check", "serve"):
        done = home.cli(command, check=False)
        assert done.returncode == 1
        assert '#3 prefix: is that of the upstream "second", too' in done.stdout + done.stderr
