"""The command line as a newcomer meets it: wrong words, lost folders, narrow terminals, and remedies that help."""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from click import Group

from certs.authority import describe
from gateway.cli import ostiary

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable, "-m", "gateway"]
PASSWORD = "Correct-Horse-7-Battery"


def on_a_terminal(*words: str, answers: tuple[str, ...] = (), columns: int = 80) -> tuple[int, str]:
    """Run the command on a terminal of its own, and answer what it asks; its exit code and all that was shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        [*PYTHON, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**environment, "TERM": "xterm"},
        start_new_session=True,
    ) as child:
        os.close(theirs)
        try:
            seen = _converse(ours, list(answers))
            return child.wait(timeout=30), seen
        finally:
            child.kill()
            os.close(ours)


def _converse(terminal: int, answers: list[str]) -> str:
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 1024)
        except OSError:  # nobody is at the other end
            return seen.decode().replace("\r\n", "\n")
        seen += piece
        if answers and seen.endswith(b": "):
            os.write(terminal, f"{answers.pop(0)}\n".encode())


# A store that is not there


@pytest.mark.parametrize(
    "words", [("serve",), ("clients", "list"), ("clients", "add", "bob"), ("audit", "query"), ("check",)]
)
@pytest.mark.parametrize("path", ["persistense", "certs"])
def test_a_store_that_is_not_there_is_not_made(home: Any, words: tuple[str, ...], path: str) -> None:
    home.configure("", settings={"storage": {"path": path}})
    before = sorted(home.folder.rglob("*"))
    done = home.cli(*words, check=False)
    assert done.returncode == 1
    said = f"no store at {home.folder / path}: `ostiary init` makes one, or mend [storage] path"
    assert said in done.stdout + done.stderr
    assert sorted(home.folder.rglob("*")) == before


def test_an_empty_folder_was_made_for_a_store(home: Any) -> None:
    home.configure("", settings={"storage": {"path": "volume"}})
    (home.folder / "volume").mkdir(mode=0o700)
    home.cli("check")
    home.cli("clients", "add", "bob")
    assert [client["client_id"] for client in home.json("clients", "list")["clients"]] == ["bob"]


# Wrong use, and refusals


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("clients", "add", "a b"), "a client's name has"),
        (("clients", "add", "a:b"), "a client's name has"),
        (("clients", "add", "none"), "stands for no certificate"),
        (("clients", "add", "bob", "--permission", "x"), "resource:action"),
        (("clients", "add", "bob", "--role", "a b"), "not a role's name"),
        (("clients", "add", "bob", "--tenant", "A C"), "a tenant's name has"),
        (("clients", "roles", "root", "--add-permission", "x"), "resource:action"),
        (("audit", "query", "--since", "yesterday"), "is not a time"),
        (("audit", "query", "--status", "good"), "no such status"),
        (("certs", "issue", "../x", "--out", "y"), "cannot be a file's name"),
        (("certs", "issue", "bob", "--san", "a b", "--out", "y"), "is not a DNS name"),
        (("certs", "issue-server", "--name", "a_*"), "is not a DNS name"),
    ],
)
def test_words_that_can_never_be_right_are_wrong_use(home: Any, words: tuple[str, ...], why: str) -> None:
    done = home.cli(*words, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert why in line
    assert line.endswith(f"See `ostiary {words[0]} {words[1]} --help`.")


def test_the_words_are_looked_at_before_the_server_is_asked(home: Any) -> None:
    home.serve()
    assert home.cli("clients", "add", "bob", "--permission", "x", check=False).returncode == 2
    assert home.cli("clients", "add", "bob", "--role", "nobody", check=False).returncode == 1


def test_init_refuses_a_wrong_name_before_it_makes_anything(tmp_path: Path) -> None:
    words = [*PYTHON, "init", str(tmp_path / "new"), "--admin", "no such: name"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, "a client's name has" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_cannot_be_read_is_said_to_be_so(home: Any) -> None:
    home.config.unlink()
    home.config.mkdir()
    for words in (("check",), ("clients", "list"), ("serve",)):
        done = home.cli(*words, check=False)
        assert done.returncode == 1
        assert "cannot be read" in done.stdout + done.stderr


# Passwords


def test_a_password_typed_for_stdin_is_not_shown(home: Any) -> None:
    words = ("clients", "add", "bob", "--password-stdin", "--config", str(home.config))
    code, seen = on_a_terminal(*words, answers=(PASSWORD,))
    assert code == 0, seen
    assert PASSWORD not in seen
    assert home.json("clients", "show", "bob")["client"]["has_password"] is True


# Certificates


@pytest.mark.parametrize("served", [False, True])
def test_a_new_certificate_is_in_the_audit(home: Any, *, served: bool) -> None:
    home.cli("tenants", "add", "acme")
    home.cli("clients", "add", "bob", "--tenant", "acme")
    if served:
        home.serve()
    out = home.folder / "out"
    home.cli("certs", "issue", "bob", "--out", str(out))
    home.cli("certs", "issue", "stranger", "--out", str(out))
    home.cli("certs", "issue-server", "--out", str(out))
    entries = [e for e in home.json("audit", "query")["entries"] if e["method"] == "certs.issue"]
    assert [(e["event"], e["target"], e["client_id"], e["tenant_id"]) for e in entries] == [
        ("admin_change", "localhost", None, "default"),
        ("admin_change", "stranger", None, "default"),
        ("admin_change", "bob", "bob", "acme"),
    ]
    for entry, name in zip(entries, ("server", "stranger", "bob"), strict=True):
        assert entry["certificate_thumbprint"] == describe(out / f"{name}.pem").fingerprint
        assert entry["actor"]


def test_a_ca_may_be_used_without_a_store(home: Any) -> None:
    home.configure("", settings={"storage": {"path": "nowhere"}})
    issued = home.cli("certs", "issue", "bob", "--out", str(home.folder / "out"))
    assert issued.stdout.splitlines()[-1] == "It yields bob."
    assert not (home.folder / "nowhere").exists()


def test_the_hint_about_a_certificate_can_be_run_or_says_why_not(home: Any) -> None:
    hint = home.cli("clients", "add", "bob", "--certificate", "bob$7").stdout.splitlines()[-1]
    words = shlex.split(hint.partition("ostiary ")[2].replace("DIR", str(home.folder / "out")))
    assert home.cli(*words).stdout.splitlines()[-1] == "It yields bob$7, and so names the client bob."

    def issued(out: str) -> str:
        done = home.cli("certs", "issue", "zoe", "--out", str(home.folder / out))
        return str(done.stdout.splitlines()[-1])

    assert issued("before") == "It yields zoe, which no client has; to add one: ostiary clients add zoe"
    home.cli("clients", "add", "zoe")
    assert issued("after") == "It names the client zoe."
    for name, why in (("team/bob", "cannot be a file's name"), ("b" * 65, "1 to 64")):
        hint = home.cli("clients", "add", name).stdout.splitlines()[-1]
        assert why in hint
        assert "[[tls.client_id]]" in hint
        assert "--out" not in hint


def test_remedies_that_help(home: Any) -> None:
    (home.folder / "certs" / "ca.key").unlink()
    done = home.cli("certs", "issue", "alice", "--out", str(home.folder / "a"), check=False)
    assert f"{home.folder / 'certs' / 'ca.key'}: the key of" in done.stderr
    assert "where the CA's key is kept" in done.stderr
    done = home.cli("certs", "show", str(home.folder), check=False)
    assert "is a folder; name a PEM file in it" in done.stderr
    done = subprocess.run([*PYTHON, "init", "/proc/x"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == "ostiary: /proc/x: No such file or directory; mend the path\n"


def test_the_way_to_make_a_secret_makes_one(home: Any) -> None:
    (home.folder / "secret.key").unlink()
    (line,) = home.cli("check", check=False).stdout.splitlines()
    subprocess.run(["sh", "-c", line.partition("make one: ")[2]], check=True)
    home.cli("check")


# Warnings


def test_what_only_costs_something_is_a_warning(home: Any) -> None:
    home.configure(
        '[[upstreams]]\nname = "a"\ntransport = "stdio"\ncommand = ["no-such-program"]\nsandbox.processes = 4\n'
    )
    found = home.json("check")
    assert found["problems"] == []
    missing, *held = found["warnings"]
    assert "no-such-program is not there" in missing
    assert ["root is not held to processes" in line for line in held] == [True] * (os.geteuid() == 0)
    assert f"warning: {missing}" in home.cli("check").stdout


# What is shown


def test_a_narrow_terminal_cuts_and_folds_no_id(home: Any) -> None:
    home.certificate("bob", "--san", "spiffe://example.org/a/long/name/for/bob")
    serial = describe(home.folder / "clients" / "bob" / "bob.pem").serial
    for columns in (40, 60, 200):
        code, seen = on_a_terminal("certs", "list", "--config", str(home.config), columns=columns)
        assert code == 0
        assert serial in seen
        assert "…" not in seen


def test_init_quotes_its_paths_and_says_when_the_certificate_ends(tmp_path: Path) -> None:
    folder = tmp_path / "my gateway"
    done = subprocess.run(
        [*PYTHON, "init", str(folder)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    (serve,) = [line for line in done.stdout.splitlines() if line.strip().startswith("ostiary serve")]
    assert shlex.split(serve) == ["ostiary", "serve", "--config", str(folder / "ostiary.toml")]
    again = subprocess.run(
        [*PYTHON, "certs", "issue-server", "--config", str(folder / "ostiary.toml")],
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout  # fmt: skip
    day = again.partition("valid until ")[2][:10]
    assert f"valid until {day}" in done.stdout
    assert "by itself, within a second" in again


def test_every_summary_fits_on_its_line() -> None:
    def summaries(group: Group) -> list[str]:
        found = []
        for command in group.commands.values():
            found.append(command.get_short_help_str(limit=60))
            if isinstance(command, Group):
                found += summaries(command)
        return found

    assert [summary for summary in summaries(ostiary) if "..." in summary] == []
