"""The command line, through the real command: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from certs.authority import describe
from gateway.config.reader import read_config
from tests import commands
from tests.commands import ROOT

PYTHON = [sys.executable, "-m", "gateway"]
PASSWORD = "Correct-Horse-7-Battery"

Run = Callable[..., subprocess.CompletedProcess[str]]


def ostiary(
    *words: str, code: int = 0, stdin: str = "", cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command; its exit code must be ``code``, and it never shows a traceback."""
    done = commands.ostiary(*words, stdin=stdin, cwd=cwd, env={**os.environ, **env})
    assert done.returncode == code, f"{words}: {done.returncode} {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.startswith("ostiary: "), done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``init`` has made, to be copied."""
    folder = tmp_path_factory.mktemp("made") / "gateway"
    ostiary("init", str(folder), "--password-stdin", stdin=f"{PASSWORD}\n")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "door"))


@pytest.fixture
def run(folder: Path) -> Run:
    """Runs a command on the folder."""

    def running(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return ostiary(*words, "--config", str(folder / "ostiary.toml"), **more)

    return running


def shown(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# init


def test_init_makes_all_that_a_gateway_needs_with_private_modes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "gateway"
    done = ostiary("init", str(folder), "--admin", "chief")
    lines = done.stdout.splitlines()
    (password,) = [line.strip() for line in lines if line.startswith("    ") and " " not in line.strip()]
    assert done.stdout.count(password) == 1
    assert {path.name for path in folder.iterdir()} == {
        "ostiary.toml",
        "certs",
        "secret.key",
        "mfa.key",
        "persistence",
    }
    assert mode(folder / "secret.key") == 0o600
    assert mode(folder / "persistence") == 0o700
    for key in ("ca.key", "server.key"):
        assert mode(folder / "certs" / key) == 0o600
    assert describe(folder / "certs" / "server.pem").sans == ("DNS:localhost", "IP:127.0.0.1", "IP:::1")
    secret = (folder / "secret.key").read_text().strip()
    assert len(secret) == 64
    assert secret not in done.stdout
    assert read_config(folder / "ostiary.toml", {}).tokens.secret == secret
    config = ("--config", str(folder / "ostiary.toml"))
    assert "nothing to mend" in ostiary("check", *config).stdout
    client = shown(ostiary("clients", "show", "chief", "--json", *config))["client"]
    assert (client["roles"], client["permissions"], client["has_password"]) == (
        ["admin"],
        ["platform:*"],
        True,
    )
    (entry,) = shown(ostiary("audit", "query", "--json", *config))["entries"]
    assert (entry["event"], entry["target"], bool(entry["actor"])) == (
        "admin_change",
        "chief: admin platform:*",
        True,
    )


def test_init_does_not_print_a_password_that_it_was_given(tmp_path: Path) -> None:
    done = ostiary("init", str(tmp_path / "g"), "--password-stdin", stdin=f"{PASSWORD}\n")
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize("part", ["ostiary.toml", "certs", "secret.key", "persistence"])
def test_init_refuses_to_overwrite_anything_and_says_what(tmp_path: Path, part: str) -> None:
    (tmp_path / part).write_text("mine")
    (tmp_path / "other").write_text("mine")
    done = ostiary("init", str(tmp_path), code=1)
    assert str(tmp_path / part) in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([part, "other"])
    assert (tmp_path / part).read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "stdin", "why", "code"),
    [
        (("--password-stdin",), "short\n", "8 to 128 characters", 1),
        (("--admin", "no/../such name"), "", "a client's name has", 2),
    ],
)
def test_init_leaves_nothing_half_made(
    tmp_path: Path, words: tuple[str, ...], stdin: str, why: str, code: int
) -> None:
    done = ostiary("init", str(tmp_path / "new"), *words, stdin=stdin, code=code)
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    ostiary("init", str(tmp_path / "there"), *words, stdin=stdin, code=code)
    assert list((tmp_path / "there").iterdir()) == []


def test_init_works_in_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    ostiary("init", ".", cwd=tmp_path)
    assert (tmp_path / "ostiary.toml").exists()
    ostiary("check", cwd=tmp_path)


# check


def problems_of(folder: Path) -> list[str]:
    """What ``check --json`` finds."""
    words = [*PYTHON, "check", "--json", "--config", str(folder / "ostiary.toml")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    found: list[str] = json.loads(done.stdout)["problems"]
    assert done.returncode == (1 if found else 0)
    return found


def test_check_names_five_mistakes_at_once(folder: Path) -> None:
    file = folder / "ostiary.toml"
    text = file.read_text().replace("port = 8443", 'prot = 8443\ndrain = "soon"')
    file.write_text(f'{text}\n[roles]\nadmin = ["all"]\n[[tools]]\nmatch = "*"\n')
    (folder / "secret.key").chmod(0o644)
    words = [*PYTHON, "check", "--config", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert [line.removeprefix(f"{file}: ").split(": ")[0] for line in done.stdout.splitlines()] == [
        "[server] drain",
        "[server] prot",
        "[tokens] secret_file",
        "[roles] admin",
        "[[tools]] #1 access",
    ]


def test_check_finds_what_is_wrong_beside_the_configuration(folder: Path) -> None:
    (folder / "certs" / "server.key").chmod(0o644)
    (folder / "persistence").chmod(0o755)
    (folder / "persistence" / "clients.json").chmod(0o640)
    (folder / "ostiary.toml").chmod(0o666)
    (folder / "certs" / "ca.key").chmod(0o640)
    (folder / "certs" / "ca.pem").chmod(0o666)
    (folder / "certs" / "server.pem").chmod(0o646)
    (folder / "certs").chmod(0o777)
    found = problems_of(folder)
    for path, remedy in (
        (folder / "certs" / "server.key", "600"),
        (folder / "persistence", f"chmod 700 {folder / 'persistence'}"),
        (folder / "persistence" / "clients.json", "chmod 600"),
        (folder / "ostiary.toml", "chmod o-w"),
        (folder / "certs" / "ca.key", "chmod 600"),
        (folder / "certs" / "ca.pem", "chmod o-w"),
        (folder / "certs" / "server.pem", "chmod o-w"),
        (folder / "certs", f"chmod o-w {folder / 'certs'}"),
    ):
        assert any(line.startswith(f"{path}: ") and remedy in line for line in found), (path, found)
    assert len(found) == 8
    words = [*PYTHON, "serve", "--config", str(folder / "ostiary.toml")]
    refused = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines() == [f"ostiary: {line}" for line in found]


def test_check_finds_missing_and_expired_certificates(folder: Path) -> None:
    assert problems_of(folder) == []
    (folder / "certs" / "server.pem").unlink()
    (folder / "certs" / "ca.pem").write_text("not a certificate")
    found = problems_of(folder)
    assert any(str(folder / "certs" / "server.pem") in line for line in found)
    assert any(str(folder / "certs" / "ca.pem") in line for line in found)


# clients


def test_clients_from_added_to_erased(run: Run) -> None:
    run("tenants", "add", "acme")
    added = run("clients", "add", "bob", "--role", "admin", "--permission", "files:read", "--tenant", "acme")
    assert "bob was added" in added.stdout
    assert "ostiary clients set-password bob" in added.stdout
    client = shown(run("clients", "show", "bob", "--json"))["client"]
    assert (client["tenant_id"], client["roles"], client["permissions"]) == (
        "acme",
        ["admin"],
        ["files:read"],
    )
    assert (client["certificate"], client["has_password"]) == ("bob", False)
    run("clients", "set-password", "bob", "--password-stdin", stdin=f"{PASSWORD}\n")
    run("clients", "disable", "bob")
    lines = run("clients", "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["CLIENT", "TENANT", "ROLES", "CERTIFICATE", "PASSWORD", "MFA", "STATE"],
        ["admin", "default", "admin", "admin", "yes", "no", "enabled"],
        ["bob", "acme", "admin", "bob", "yes", "no", "disabled"],
    ]
    run("clients", "enable", "bob")
    assert run("clients", "unlock", "bob").stdout == "bob was not locked out.\n"
    changed = shown(run("clients", "roles", "bob", "--no-roles", "--add-permission", "a:b", "--json"))[
        "client"
    ]
    assert (changed["roles"], changed["permissions"]) == ([], ["files:read", "a:b"])
    assert "erased" in run("clients", "erase", "bob").stdout
    listed = shown(run("clients", "list", "--json"))["clients"]
    assert [(client["client_id"], bool(client["erased_at"])) for client in listed] == [
        ("admin", False),
    ]
    assert "$2b$" not in run("clients", "list", "--json").stdout
    assert "password_hash" not in run("clients", "show", "admin", "--json").stdout


def test_what_is_refused_is_one_line_that_says_what_to_do(run: Run) -> None:
    for words, why in (
        (("clients", "add", "admin"), "is taken"),
        (("clients", "add", "bob", "--role", "admn"), 'did you mean "admin"?'),
        (("clients", "add", "bob", "--certificate", "admin"), "belong to admin"),
        (("clients", "show", "admn"), 'did you mean "admin"?'),
        (("tokens", "revoke", "x"), "no such token"),
        (("audit", "query", "--cursor", "x"), "leave it out to begin anew"),
        (("certs", "show", "nowhere.pem"), "no such file"),
    ):
        done = run(*words, code=1)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert why in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("clients",),
        ("clients", "ad"),
        ("clients", "add"),
        ("clients", "add", "bob", "--colour", "red"),
        ("clients", "add", "bob", "--password-stdin"),
        ("clients", "set-password", "bob"),
        ("clients", "roles", "bob", "--role", "admin", "--no-roles"),
        ("tokens", "revoke"),
        ("tokens", "revoke", "a", "--client", "b"),
        ("certs", "issue", "bob"),
        ("audit", "query", "--limit", "0"),
        ("bridge",),
        (),
    ],
)
def test_wrong_use_ends_2_and_points_to_the_help(words: tuple[str, ...]) -> None:
    done = ostiary(*words, code=2)
    assert done.stdout == ""
    assert "--help" in done.stderr


def test_set_password_asks_twice_on_a_terminal(folder: Path) -> None:
    ours, theirs = pty.openpty()
    words = [*PYTHON, "clients", "set-password", "admin", "--config", str(folder / "ostiary.toml")]
    child = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True
    )
    os.close(theirs)
    seen = b""
    answers = [b"New-Horse-8-Battery\n", b"New-Horse-8-Battery\n"]
    while True:
        try:
            piece = os.read(ours, 1024)
        except OSError:
            break
        seen += piece
        if answers and seen.count(b":") == 3 - len(answers):
            os.write(ours, answers.pop(0))
    assert child.wait(timeout=30) == 0, seen
    os.close(ours)
    assert b"New-Horse" not in seen
    assert b"is set" in seen


# certs


def test_certificates_are_issued_listed_and_shown(folder: Path, run: Run) -> None:
    out = folder / "clients"
    done = run("certs", "issue", "bob", "--san", "spiffe://example.org/bob", "--days", "7", "--out", str(out))
    assert done.stdout.splitlines()[-1].startswith("It yields bob, which no client has")
    assert {path.name for path in out.iterdir()} == {"bob.pem", "bob.key", "ca.pem"}
    assert mode(out / "bob.key") == 0o600
    certificate = shown(run("certs", "show", str(out / "bob.pem"), "--json"))["certificate"]
    assert (certificate["client_id"], certificate["sans"]) == ("bob", ["URI:spiffe://example.org/bob"])
    listed = shown(run("certs", "list", "--json"))["certificates"]
    assert [entry["common_name"] for entry in listed] == ["localhost", "bob"]
    assert listed[1]["serial"] == certificate["serial"]
    assert "bob" in run("certs", "list").stdout
    assert "CN=bob" in run("certs", "show", str(out / "bob.pem")).stdout
    assert "exists already" in run("certs", "issue", "bob", "--out", str(out), code=1).stderr


def test_the_servers_certificate_is_renewed_in_its_place(folder: Path, run: Run) -> None:
    before = describe(folder / "certs" / "server.pem").serial
    run("certs", "issue-server")
    after = describe(folder / "certs" / "server.pem")
    assert after.serial != before
    assert after.sans == ("DNS:localhost", "IP:127.0.0.1", "IP:::1")
    run("check")
    run("certs", "issue-server", "--name", "gateway.example.org", "--out", str(folder / "other"))
    assert describe(folder / "other" / "server.pem").sans == ("DNS:gateway.example.org",)
    assert describe(folder / "certs" / "server.pem").serial == after.serial


# audit


def test_the_audit_is_queried_and_its_tail_shown(run: Run) -> None:
    run("clients", "add", "bob")
    page = shown(run("audit", "query", "--client", "bob", "--json"))
    assert [entry["method"] for entry in page["entries"]] == ["clients.add"]
    assert page["next_cursor"] is None
    first = run("audit", "query", "--limit", "1")
    assert "clients.add bob by" in first.stdout
    cursor = first.stderr.split("--cursor ")[1].strip()
    assert (
        "clients.add admin: admin platform:* by"
        in run("audit", "query", "--limit", "1", "--cursor", cursor).stdout
    )
    lines = run("audit", "tail", "--json").stdout.splitlines()
    assert [json.loads(line)["target"] for line in lines] == ["admin: admin platform:*", "bob"]
    (line,) = run("audit", "tail", "-n", "1").stdout.splitlines()
    assert "bob" in line


# the configuration and the store


def test_the_configuration_is_found_by_option_variable_or_folder(folder: Path, tmp_path: Path) -> None:
    assert "ostiary init DIR" in ostiary("clients", "list", cwd=tmp_path, code=1).stderr
    assert "admin" in ostiary("clients", "list", cwd=folder).stdout
    assert (
        "admin"
        in ostiary("clients", "list", OSTIARY_CONFIG=str(folder / "ostiary.toml"), cwd=tmp_path).stdout
    )


def test_a_gateways_folder_does_not_stand_in_for_our_packages(folder: Path) -> None:
    (folder / "certs" / "__init__.py").write_text("raise SystemExit('not ours')")
    (folder / "json.py").write_text("raise SystemExit('not ours')")
    assert "admin" in ostiary("clients", "list", cwd=folder).stdout
    assert "nothing to mend" in ostiary("check", cwd=folder).stdout


def test_every_mistake_of_the_configuration_is_a_line_on_stderr(folder: Path, run: Run) -> None:
    text = (folder / "ostiary.toml").read_text()
    (folder / "ostiary.toml").write_text(text.replace("port = 8443", "port = 99999\ncolour = 1"))
    for words in (("clients", "list"), ("serve",)):
        assert len(run(*words, code=1).stderr.splitlines()) == 2


def test_a_store_in_use_is_refused(folder: Path, run: Run) -> None:
    import fcntl

    with (folder / "persistence" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use" in run("clients", "list", code=1).stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for somebody else")
def test_root_leaves_the_store_to_its_owner(folder: Path, run: Run) -> None:
    for path in (folder / "persistence", *(folder / "persistence").rglob("*")):
        os.chown(path, 65534, 65534)
    for parent in (folder, *folder.parents):
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    run("clients", "add", "bob")
    owners = {path.stat().st_uid for path in (folder / "persistence").rglob("*")}
    assert owners == {65534}
    assert shown(run("audit", "query", "--client", "bob", "--json"))["entries"][0]["actor"] == "root"


def test_while_a_server_runs_commands_go_through_it(home: Any) -> None:
    served = home.serve()
    home.cli("clients", "add", "bob", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert [client["client_id"] for client in home.json("clients", "list")["clients"]] == ["bob", "root"]
    assert "was not locked out" in home.cli("clients", "unlock", "bob").stdout
    refused = home.cli("clients", "add", "bob", check=False)
    assert (refused.returncode, "is taken" in refused.stderr) == (1, True)
    assert home.cli("tokens", "list").stdout.split() == [
        "TOKEN",
        "CLIENT",
        "KIND",
        "EXPIRES",
        "(UTC)",
        "STATE",
    ]
    assert stat.S_ISSOCK((home.folder / "persistence" / "control.sock").stat().st_mode)
    assert served.stop() == 0
    assert not (home.folder / "persistence" / "control.sock").exists()
    entry = home.json("audit", "query", "--client", "bob")["entries"][-1]
    assert (entry["method"], entry["actor"]) == (
        "clients.add",
        home.json("audit", "query")["entries"][-1]["actor"],
    )
    assert PASSWORD not in served.log.read_text()


def test_following_the_audit_shows_what_comes(home: Any) -> None:
    home.serve()
    # Heeds SIGINT even where these tests run in the background of a script, which ignores it.
    words = ["env", "--default-signal=INT", *PYTHON, "audit", "tail", "--follow", "--json"]
    words += ["--config", str(home.config)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as tail:
        try:
            assert tail.stdout is not None
            assert tail.stderr is not None
            assert json.loads(tail.stdout.readline())["target"].startswith("root: ")
            home.cli("clients", "add", "bob")
            assert json.loads(tail.stdout.readline())["target"] == "bob"
            home.cli("clients", "add", "carl")
            assert json.loads(tail.stdout.readline())["target"] == "carl"
            tail.send_signal(signal.SIGINT)
            assert tail.wait(timeout=20) == 1
            assert tail.stderr.read().split() == ["ostiary:", "interrupted"]
        finally:
            tail.kill()


def test_a_port_in_use_is_one_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", code=1, OSTIARY_SERVER_PORT=port)
    assert len(done.stderr.splitlines()) == 1
    assert port in done.stderr


def test_a_reader_that_goes_away_is_no_error(run: Run, folder: Path) -> None:
    words = " ".join([*PYTHON, "audit", "query", "--json", "--config", str(folder / "ostiary.toml")])
    done = subprocess.run(
        ["sh", "-c", f"{words} | true"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stderr == ""


def test_what_steers_a_terminal_is_escaped() -> None:
    from gateway.cli.output import printable

    assert printable("a\x1b[2Jb\u202ec\n") == "a\\x1b[2Jb\\u202ec\\n"
    assert printable(None) == printable("") == printable([]) == "-"
    assert printable(["a", "b"]) == "a b"


def test_help_and_version() -> None:
    assert ostiary("--version").stdout.startswith("ostiary, version ")
    for words in ((), ("clients",), ("certs",), ("tokens",), ("audit",), ("init",), ("serve",), ("check",)):
        assert "Usage: ostiary" in ostiary(*words, "--help").stdout


def test_check_looks_further_when_a_secret_cannot_be_read(folder: Path) -> None:
    names = ("secret.key", "certs/server.key", "persistence/clients.json")
    for name in names:
        (folder / name).chmod(0o644)
    found = problems_of(folder)
    for name in names:
        assert any(name in line for line in found), (name, found)
