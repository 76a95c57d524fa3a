"""``ostiary login``, ``whoami``, ``tools``, ``call``, ``logout`` at a real gateway, with a home of the test's own."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, ostiary

PASSWORD = "Correct-Horse-7-Staple"
CONFIG = """
[[upstreams]]
name = "near"
transport = "stdio"
command = ["{python}", "{script}", "stdio"]
prefix = "near_"

[[tools]]
match = "near_echo"
access = "public"

[[tools]]
match = "*"
permissions = ["all:use"]
"""
KEYRING = '''
"""A keyring that keeps its items in a file."""
import json, os, pathlib
from types import SimpleNamespace

_FILE = pathlib.Path(os.environ["TEST_KEYRING"])


def get_keyring():
    return SimpleNamespace(priority=float(os.environ.get("TEST_KEYRING_PRIORITY", "5")))


def _all():
    return json.loads(_FILE.read_text()) if _FILE.exists() else {}


def get_password(service, name):
    return _all().get(f"{service} {name}")


def set_password(service, name, password):
    _FILE.write_text(json.dumps(_all() | {f"{service} {name}": password}))


def delete_password(service, name):
    items = _all()
    del items[f"{service} {name}"]
    _FILE.write_text(json.dumps(items))
'''


def prepare(home: Any) -> None:
    """Two clients; alice has a password, bob a certificate alone."""
    script = ROOT / "tests" / "servers" / "everything.py"
    home.configure('[roles]\nuser = ["all:use"]\n' + CONFIG.format(python=sys.executable, script=script))
    home.client("alice", "--role", "user", password=PASSWORD)
    home.client("bob", "--role", "user")


@dataclass
class User:
    """Somebody at a command line, with a home of their own."""

    home: Path
    gateway: Any
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def token(self) -> Path:
        return self.home / ".ostiary" / "token"

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), **self.environment}
        return ostiary(*words, stdin=stdin, env=environment)

    def json(self, *words: str, stdin: str = "") -> Any:
        done = self.run(*words, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *words: str, code: int = 1, stdin: str = "") -> str:
        """The one line on stderr."""
        done = self.run(*words, stdin=stdin)
        assert (done.returncode, done.stdout) == (code, ""), done
        (line,) = done.stderr.splitlines()
        return line

    def login(self, url: str, *options: str) -> Any:
        ca = str(self.gateway.folder / "certs" / "ca.pem")
        words = ("login", url, "--ca", ca, "--username", "alice", "--password-stdin", *options)
        return self.json(*words, stdin=PASSWORD + "\n")

    def login_by_certificate(self, url: str, name: str) -> Any:
        folder = self.gateway.folder / "clients" / name
        files = ("--cert", str(folder / f"{name}.pem"), "--key", str(folder / f"{name}.key"))
        return self.json("login", url, "--ca", str(folder / "ca.pem"), *files)


@pytest.fixture
def user(home: Any, tmp_path: Path) -> User:
    (tmp_path / "user").mkdir()
    return User(tmp_path / "user", home)


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in [folder, *folder.iterdir()]}


def test_signed_in_by_password_until_signed_out(home: Any, user: User, caller: Any) -> None:
    served = home.serve()
    me = user.login(served.url)
    assert (me["client_id"], me["gateway"]) == ("alice", served.url)
    modes = _modes(user.home / ".ostiary")
    assert modes.pop(".ostiary") == 0o700
    assert modes.keys() >= {"token"}
    assert set(modes.values()) == {0o600}
    assert user.json("whoami")["client_id"] == "alice"
    assert "near_count" in [tool["name"] for tool in user.json("tools")["tools"]]
    assert "hello" in user.run("call", "near_echo", '{"text": "hello"}').stdout

    tokens = json.loads(user.token.read_text())["gateways"][served.url]
    assert user.json("logout") == {"gateway": served.url, "revoked": True}
    assert not user.token.exists()
    used = caller(served, token=tokens["access_token"]).ask("GET", "/audit")
    assert (used.status, used.json["reason"]) == (401, "token_revoked")
    for words in (("whoami",), ("tools",), ("call", "near_echo")):
        assert user.refused(*words).endswith(f"nobody is signed in; sign in: ostiary login {served.url}")


def test_a_certificate_alone_is_enough_and_is_remembered(home: Any, user: User) -> None:
    served = home.serve()
    assert user.login_by_certificate(served.url, "bob")["client_id"] == "bob"
    assert "refresh_token" not in {
        name
        for name, value in json.loads(user.token.read_text())["gateways"][served.url].items()
        if value is not None
    }
    user.json("logout")
    assert user.json("login", served.url)["client_id"] == "bob"
    assert user.json("whoami")["client_id"] == "bob"


def test_without_words_that_say_who_it_is_wrong_use(home: Any, user: User) -> None:
    assert "name a certificate" in user.refused("login", "https://localhost:1", code=2)
    assert "--password-stdin" in user.refused("login", "https://localhost:1", "--username", "alice", code=2)
    assert "--key needs --cert" in user.refused("login", "https://localhost:1", "--key", "x", code=2)
    for url in ("http://localhost:1", "localhost", "https://", "https://a:b@localhost", "https://h:99999"):
        assert "a gateway's URL is https://HOST:PORT" in user.refused("login", url, code=2)
    assert "not JSON" in user.refused("call", "x", "{", code=2)
    assert "JSON object" in user.refused("call", "x", "[]", code=2)


def test_nobody_is_signed_in_before_the_first_time(user: User) -> None:
    assert user.refused("whoami") == "ostiary: nobody is signed in; sign in: ostiary login URL"
    assert not (user.home / ".ostiary").exists()


def test_a_gateway_that_is_not_trusted_is_told_nothing(home: Any, user: User) -> None:
    served = home.serve()
    line = user.refused("login", served.url, "--username", "alice", "--password-stdin", stdin=PASSWORD + "\n")
    assert "CERTIFICATE_VERIFY_FAILED" in line
    assert "--ca" in line
    assert not user.token.exists()
    assert home.json("audit", "query", "--event", "token_issued")["entries"] == []


def test_what_cannot_be_used_is_named(home: Any, user: User, tmp_path: Path) -> None:
    served = home.serve()
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    ca = str(home.folder / "certs" / "ca.pem")
    assert f"{junk} holds no CA certificate" in user.refused(
        "login", served.url, "--ca", str(junk), "--cert", str(junk)
    )
    assert "name its key with --key" in user.refused("login", served.url, "--ca", ca, "--cert", str(junk))
    alice, bob = (home.folder / "clients" / name / name for name in ("alice", "bob"))
    pair = ("--cert", f"{alice}.pem", "--key", f"{bob}.key")
    assert "do not belong together" in user.refused("login", served.url, "--ca", ca, *pair)
    assert "no such file" in user.refused(
        "login", served.url, "--ca", str(tmp_path / "none"), "--cert", str(junk)
    )
    wrong = user.refused(
        "login", served.url, "--ca", ca, "--username", "alice", "--password-stdin", stdin="Wrong-7-Words\n"
    )
    assert "signing in was refused" in wrong
    assert "Wrong-7-Words" not in wrong
    assert not user.token.exists()


def test_a_token_that_is_about_to_expire_is_renewed_and_one_that_cannot_be_is_said_to_be_so(
    home: Any, user: User
) -> None:
    served = home.serve()
    user.login(served.url)
    stored = json.loads(user.token.read_text())
    first = stored["gateways"][served.url]["access_token"]
    stored["gateways"][served.url]["expires_at"] = 0
    user.token.write_text(json.dumps(stored))
    assert user.json("whoami")["client_id"] == "alice"
    second = json.loads(user.token.read_text())["gateways"][served.url]["access_token"]
    assert second != first

    home.cli("tokens", "revoke", "--client", "alice")
    line = user.refused("whoami")
    assert "the session has ended" in line
    assert line.endswith(f"sign in: ostiary login {served.url}")


def test_an_access_token_that_was_revoked_alone_is_replaced(home: Any, user: User) -> None:
    served = home.serve()
    user.login(served.url)
    live = [token for token in home.json("tokens", "list")["tokens"] if token["kind"] == "access"]
    home.cli("tokens", "revoke", live[-1]["token_id"])
    assert user.json("whoami")["client_id"] == "alice"
    assert "hello" in user.run("call", "near_echo", '{"text": "hello"}').stdout


def test_many_at_once_renew_once(home: Any, user: User) -> None:
    served = home.serve()
    user.login(served.url)
    stored = json.loads(user.token.read_text())
    stored["gateways"][served.url]["expires_at"] = 0
    user.token.write_text(json.dumps(stored))
    environment = {"PATH": os.environ["PATH"], "HOME": str(user.home)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "gateway", "whoami", "--json"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        for _ in range(4)
    ]
    for process in running:
        out, _ = process.communicate(timeout=60)
        assert json.loads(out)["client_id"] == "alice"
    assert len(home.json("audit", "query", "--event", "token_refreshed")["entries"]) == 1


def test_a_token_file_that_is_too_wide_is_narrowed_with_a_warning(home: Any, user: User) -> None:
    served = home.serve()
    user.login(served.url)
    user.token.chmod(0o644)
    done = user.run("whoami")
    assert (done.returncode, "had mode 0644" in done.stderr) == (0, True)
    assert stat.S_IMODE(user.token.stat().st_mode) == 0o600


def test_signing_out_removes_the_file_though_the_gateway_is_gone(home: Any, user: User) -> None:
    served = home.serve()
    user.login(served.url)
    served.stop()
    done = user.run("logout")
    assert done.returncode == 0
    assert "not revoked there" in done.stderr
    assert not user.token.exists()


def test_two_gateways_are_told_apart(home: Any, user: User) -> None:
    served = home.serve()
    user.login(served.url)
    again = served.url.replace("localhost", "127.0.0.1")
    user.login_by_certificate(again, "bob")
    assert user.json("whoami")["client_id"] == "bob"
    assert user.json("whoami", "--gateway", served.url)["client_id"] == "alice"
    assert user.json("tools", "--gateway", served.url)["tools"]
    user.json("logout")
    assert user.token.exists()
    assert user.json("whoami", "--gateway", served.url)["client_id"] == "alice"
    user.json("logout", "--gateway", served.url)
    assert not user.token.exists()


def test_a_tool_that_fails_or_is_not_there_ends_1(home: Any, user: User) -> None:
    served = home.serve()
    user.login(served.url)
    assert "Unknown tool: near_nothing" in user.refused("call", "near_nothing")
    failed = user.run("call", "near_fail")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "near_fail failed" in failed.stderr
    raw = user.run("call", "near_fail", "--json")
    assert (raw.returncode, json.loads(raw.stdout)["isError"]) == (1, True)


def test_a_damaged_token_file_is_named(home: Any, user: User) -> None:
    served = home.serve()
    user.login(served.url)
    user.token.write_text("{")
    assert f"{user.token} holds something else; remove it" in user.refused("whoami")


# The keyring


@pytest.fixture
def keyring(user: User, tmp_path: Path) -> Path:
    package = tmp_path / "packages" / "keyring"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(KEYRING)
    (package / "errors.py").write_text("class KeyringError(Exception): pass\n")
    user.environment = {"PYTHONPATH": str(package.parent), "TEST_KEYRING": str(tmp_path / "items.json")}
    return tmp_path / "items.json"


def test_with_the_keyring_no_token_is_in_a_file(home: Any, user: User, keyring: Path) -> None:
    served = home.serve()
    user.login(served.url)
    assert user.token.exists()
    user.login(served.url, "--keyring")
    assert not user.token.exists()
    items = json.loads(keyring.read_text())
    tokens = json.loads(items[f"ostiary {served.url}"])
    for path in (user.home / ".ostiary").iterdir():
        assert tokens["access_token"] not in path.read_text()
    assert user.json("whoami")["client_id"] == "alice"
    user.json("logout")
    assert json.loads(keyring.read_text()) == {}


def test_a_keyring_that_is_not_there_is_said_to_be_so(
    home: Any, user: User, request: pytest.FixtureRequest
) -> None:
    words = ("login", "https://localhost:1", "--keyring", "--username", "alice", "--password-stdin")
    assert "pip install 'ostiary[keyring]'" in user.refused(*words, stdin="x\n")
    request.getfixturevalue("keyring")
    user.environment["TEST_KEYRING_PRIORITY"] = "0"
    assert "no keyring that can be used" in user.refused(*words, stdin="x\n")
