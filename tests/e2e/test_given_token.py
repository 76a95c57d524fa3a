"""``OSTIARY_TOKEN``: the client's commands without a login, as a CI job has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, ostiary
from tests.conftest import Caller, Home, Served

PASSWORD = "Correct-Horse-7-Staple"
CONFIG = f"""
[[upstreams]]
name = "near"
transport = "stdio"
command = ["{sys.executable}", "{ROOT}/tests/servers/everything.py", "stdio"]
prefix = "near_"

[[tools]]
match = "*"
permissions = ["all:use"]
"""


def prepare(home: Any) -> None:
    home.configure(CONFIG)
    home.client("alice", "--permission", "all:use", password=PASSWORD)


@pytest.fixture(scope="module")
def gate(prepared: Path) -> Home:
    """One gateway's folder for the module."""
    return Home(prepared)


@pytest.fixture(scope="module")
def key(gate: Home) -> str:
    """An API key of alice's."""
    made: str = gate.json("api-keys", "add", "alice", "--name", "ci")["api_key"]
    return made


@pytest.fixture(scope="module")
def served(gate: Home, key: str) -> Iterator[Served]:
    """It runs, and its upstream does."""
    running = gate.serve()
    with Caller(gate, running) as nobody:  # the call waits for the upstream to start
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        call = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "near_echo", "arguments": {}},
        }
        assert nobody.ask("POST", "/mcp", json.dumps(call), headers).status == 200
    yield running
    assert running.stop() == 0
    running.close()
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def job(gate: Home, served: Served, tmp_path: Path) -> Any:
    """Runs a command as a CI job does: an empty home, and variables."""

    def run(*words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "OSTIARY_CA": str(gate.folder / "certs" / "ca.pem"),
            "OSTIARY_GATEWAY": served.url,
            **variables,
        }
        done = ostiary(*words, stdin=stdin, env=environment)
        kept = list(tmp_path.rglob("*"))
        assert kept == [], "nothing is written"
        credential = variables.get("OSTIARY_TOKEN")
        assert not credential or credential not in done.stdout + done.stderr
        return done

    return run


def test_an_api_key_or_an_access_token_is_enough(gate: Home, served: Served, key: str, job: Any) -> None:
    with Caller(gate, served) as nobody:
        answer = nobody.form("/auth/token", username="alice", password=PASSWORD)
    for credential in (key, answer.json["access_token"]):
        me = json.loads(job("whoami", "--json", OSTIARY_TOKEN=credential).stdout)
        assert (me["client_id"], me["gateway"]) == ("alice", served.url)
        assert "near_echo" in job("tools", OSTIARY_TOKEN=credential).stdout
        said = job("call", "near_echo", '{"text": "hello"}', OSTIARY_TOKEN=credential)
        assert (said.returncode, "hello" in said.stdout) == (0, True), said


def test_the_bridge_presents_it(served: Served, key: str, job: Any) -> None:
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
    done = job("bridge", served.url, stdin=message + "\n", OSTIARY_TOKEN=key)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert "near_echo" in [tool["name"] for tool in json.loads(line)["result"]["tools"]]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OSTIARY_TOKEN": ""}, "OSTIARY_TOKEN is empty"),
        ({"OSTIARY_TOKEN": "two words"}, "neither a token nor an API key"),
        ({"OSTIARY_TOKEN": "x.y.z"}, "refuses the token of OSTIARY_TOKEN"),
        ({"OSTIARY_TOKEN": "osk_00000000_" + "A" * 43}, "refuses the token of OSTIARY_TOKEN"),
        ({"OSTIARY_TOKEN": "x", "OSTIARY_GATEWAY": ""}, "--gateway URL"),
        ({}, "nobody is signed in"),
    ],
)
def test_what_is_no_good_is_said_and_nothing_else_is_tried(
    job: Any, variables: dict[str, str], told: str
) -> None:
    for words in (("whoami",), ("call", "near_echo")):
        done = job(*words, **variables)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done
        assert told in done.stderr


def test_the_bridge_says_it_of_each_request(served: Served, job: Any) -> None:
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
    done = job("bridge", served.url, stdin=message + "\n", OSTIARY_TOKEN="x.y.z")
    [line] = done.stdout.splitlines()
    assert "refuses the token of OSTIARY_TOKEN" in json.loads(line)["error"]["message"]
