"""What a stdio server leaves behind, says on its standard error, and may see of the gateway's own files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.confinement import probe
from tests.commands import ROOT
from tests.conftest import Served
from tests.test_sandbox import BECOME, WITHOUT_MOUNTS
from tests.test_upstream_stdio import alive

SERVER = Path(__file__).parent.parent / "servers" / "named.py"
CONFIG = """
[[upstreams]]
name = "local"
transport = "stdio"
command = ["{python}", "{server}", "local", ".", "read", "write", "family", "complain"]

[[tools]]
match = "*"
access = "public"
"""


@pytest.fixture
def served(home: Any) -> Any:
    (home.folder / "work").mkdir()
    home.configure(CONFIG.format(python=sys.executable, server=SERVER))
    return home.serve()


def _say(anybody: Any, tool: str, **arguments: str) -> str:
    text: str = anybody.call(tool, arguments)["result"]["content"][0]["text"]
    return text


def test_what_a_server_started_ends_with_a_killed_gateway(served: Any, caller: Any, wait_until: Any) -> None:
    anybody = caller(served)
    wait_until(lambda: "family" in anybody.tools(), seconds=60)
    grandchildren = [int(_say(anybody, "family")) for _ in range(2)]
    assert all(alive(pid) for pid in grandchildren)
    served.kill()
    wait_until(lambda: not any(alive(pid) for pid in grandchildren), seconds=60)


def test_a_server_whose_list_changes_whenever_it_is_asked_for_holds_nobody_up(home: Any, caller: Any) -> None:
    config = CONFIG.format(python=sys.executable, server=SERVER)
    second = config.replace('"local"', '"restless"').replace(
        '"read", "write", "family", "complain"', '"restless"'
    )
    home.configure(config + second[: second.index("[[tools]]")])
    anybody = caller(home.serve())
    for _ in range(20):
        begun = time.monotonic()
        assert anybody.tools() == ["read", "write", "family", "complain", "restless"]
        assert time.monotonic() - begun < 5
        time.sleep(0.05)
    assert _say(anybody, "restless") == "restless"


def test_a_server_has_a_log_of_its_own(home: Any, served: Any, caller: Any, wait_until: Any) -> None:
    anybody = caller(served)
    wait_until(lambda: "complain" in anybody.tools(), seconds=60)
    _say(
        anybody,
        "complain",
        text="first \x1b[31m\u202e line\n2026-01-01T00:00:00.000Z WARNING ostiary: forged",
    )
    log = home.folder / "server-logs" / "local.log"
    wait_until(lambda: "forged" in log.read_text() if log.exists() else False)
    first, second = log.read_text().splitlines()[-2:]
    assert first.endswith("] stderr: first \\x1b[31m\\u202e line")
    assert "] stderr: 2026-01-01T00:00:00.000Z WARNING ostiary: forged" in second
    assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "forged" not in served.log.read_text()
    assert _say(anybody, "read", path="server-logs/local.log") != repr(log.read_text())


def test_a_server_does_not_see_the_gateways_own_files(
    home: Any, served: Any, caller: Any, wait_until: Any
) -> None:
    if not probe()["hides"]:
        pytest.skip("this system has no mount namespaces for it")
    anybody = caller(served)
    wait_until(lambda: "read" in anybody.tools(), seconds=60)
    assert (
        _say(anybody, "write", path="work/own-file") == "7"
    )  # in a folder that is not the gateway's, it may work
    assert (home.folder / "work" / "own-file").read_text() == "written"
    assert _say(anybody, "write", path="own-file") == "OSError"
    secrets = ["secret.key", "certs/server.key", "certs/ca.key", "persistence/tokens.json"]
    secrets += ["persistence/control.key", "persistence/audit.json"]
    for path in secrets:
        whole = (home.folder / path).read_text()
        seen = _say(anybody, "read", path=path)
        assert seen in {"''", "FileNotFoundError", "PermissionError", "NotADirectoryError"}, (path, seen)
        seen = _say(anybody, "read", path=f"/proc/{served.process.pid}/root/{home.folder / path}")
        assert seen == "PermissionError", (path, seen)
        _say(anybody, "write", path=path)
        assert (home.folder / path).read_text().startswith(whole[:20])
    for path in ("ostiary.toml", "certs/ca.pem", "certs/new.pem"):
        assert _say(anybody, "write", path=path) == "OSError"  # read-only
    assert _say(anybody, "read", path=f"/proc/{served.process.pid}/environ") == "PermissionError"
    assert "BEGIN CERTIFICATE" in _say(anybody, "read", path="certs/ca.pem")


@contextmanager
def _served_without_mounts(home: Any) -> Iterator[Any]:
    """A gateway that can hide nothing by mounts. For root, a capability less; for others, no further namespace."""
    log = home.folder / "serve.log"
    gateway = (sys.executable, "-m", "gateway", "serve", "--config", str(home.config))
    with log.open("w") as stderr:
        words = [sys.executable, "-c", WITHOUT_MOUNTS + BECOME, *gateway]
        variables = {**os.environ, "OSTIARY_SERVER_PORT": "0"}
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT, env=variables
        )
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1].replace("127.0.0.1", "localhost")
        yield Served(process, process.stdout, url, log)  # type: ignore[arg-type]
        process.terminate()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("how", ["hides", "landlock"])
def test_a_running_server_sees_no_key_that_is_replaced_and_changes_nothing_of_the_program(
    home: Any, caller: Any, wait_until: Any, how: str
) -> None:
    if not probe()[how]:
        pytest.skip("this system does not have that")
    home.configure(CONFIG.format(python=sys.executable, server=SERVER))
    serving = nullcontext(home.serve()) if how == "hides" else _served_without_mounts(home)
    with serving as served:
        _replaced_keys_stay_hidden(home, caller(served), wait_until)


def _replaced_keys_stay_hidden(home: Any, anybody: Any, wait_until: Any) -> None:
    wait_until(lambda: "read" in anybody.tools(), seconds=60)
    before = {path: (home.folder / path).read_text() for path in ("certs/server.key", "secret.key")}
    assert "certs/server.pem" in home.cli("certs", "issue-server").stdout
    home.cli("keys", "rotate")
    for path in ("secret.key", "ostiary.toml"):
        (home.folder / "new").write_text((home.folder / path).read_text())
        (home.folder / "new").replace(home.folder / path)
    for path, old in before.items():
        assert (home.folder / path).read_text() != old
        assert _say(anybody, "read", path=path) in {"FileNotFoundError", "PermissionError"}, path
    changed = home.config.read_text()
    for path in ("ostiary.toml", "secret.key", "new.pem"):
        _say(anybody, "write", path=path)
    assert home.config.read_text() == changed
    assert not (home.folder / "new.pem").exists()
    for folder in (ROOT / "gateway", ROOT / "certs", ROOT / "persistence", Path(sys.prefix)):
        assert _say(anybody, "write", path=str(folder / "planted.py")) in {"OSError", "PermissionError"}
        assert not (folder / "planted.py").exists()


def test_what_is_not_held_here_is_told_by_check(home: Any) -> None:
    home.configure(CONFIG.format(python=sys.executable, server=SERVER))
    held = [line for line in home.json("check")["warnings"] if " sandbox: " in line]
    can = probe()
    least = (
        "no mount namespaces for it; Landlock" if can["landlock"] else "neither mount namespaces nor Landlock"
    )
    expected = [] if can["hides"] else [least]
    expected += ["root is not held"] if os.geteuid() == 0 else []
    assert len(held) == len(expected)
    assert all(words in line for words, line in zip(expected, held, strict=True))


@pytest.mark.parametrize(
    ("key", "path", "opened"),
    [
        ("read", "persistence", "persistence"),
        ("read", "persistence/tokens.json", "persistence"),
        ("read", "secret.key", "secret.key"),
        ("write", "certs", "certs/server.key"),
        ("read", "link", "secret.key"),
        ("write", "ostiary.toml", "ostiary.toml"),
        ("write", "certs/crl.pem", "certs"),
        ("write", sys.prefix, sys.prefix),
        ("read", "upstream.token", "upstream.token"),
    ],
)
def test_the_gateways_own_files_are_opened_to_no_server(home: Any, key: str, path: str, opened: str) -> None:
    token = home.folder / "upstream.token"
    token.write_text("Authorization: Bearer something")
    token.chmod(0o600)
    (home.folder / "link").symlink_to("secret.key")
    (home.folder / "certs" / "crl.pem").touch()
    far = '[[upstreams]]\nname = "far"\ntransport = "http"\nurl = "http://localhost:1/mcp"\nprefix = "f_"\n'
    far += 'header_file = "upstream.token"\n'
    command = f'command = ["python3"]\nsandbox = {{ {key} = ["{path}"] }}\n'
    home.configure(f'{far}[[upstreams]]\nname = "local"\ntransport = "stdio"\n{command}')
    done = home.cli("check", check=False)
    assert done.returncode == 1
    own = home.folder.resolve() / opened
    place = f"[[upstreams]] local sandbox {key}: {home.folder / path} opens {own},"
    assert f"{place} which is the gateway's own; name what the server needs of it" in done.stdout
