"""``ostiary login`` where the account has a second factor."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.identity.totp import STEP, code_at
from tests.commands import ROOT, ostiary

PASSWORD = "Purple-Kettle-81-Moor"


def prepare(home: Any) -> None:
    """Alice has a password."""
    home.client("alice", password=PASSWORD)
    home.configure("", settings={"limits": {"login_per_minute": 1000}})


def _code(secret: str, ahead: int = 0) -> str:
    return code_at(base64.b32decode(secret), int(time.time()) // STEP + ahead)


@pytest.fixture
def served(home: Any) -> Any:
    return home.serve()


@pytest.fixture
def factors(served: Any, caller: Any) -> tuple[str, list[str], str]:
    """The secret of alice's authenticator, her recovery codes, and the code that was used."""
    alice = caller(served)

    def post(path: str, **body: str) -> Any:
        return alice.ask("POST", path, json.dumps(body), {"Content-Type": "application/json"}).json

    alice.token = post("/auth/login", username="alice", password=PASSWORD)["access_token"]
    secret = post("/auth/mfa/enrol")["secret"]
    used = _code(secret, ahead=-1)
    return secret, post("/auth/mfa/confirm", code=used)["recovery_codes"], used


def _login(home: Any, served: Any, user: Path, *words: str) -> subprocess.CompletedProcess[str]:
    who = ("--ca", str(home.folder / "certs" / "ca.pem"), "--username", "alice", "--password-stdin")
    environment = {"PATH": os.environ["PATH"], "HOME": str(user)}
    return ostiary("login", served.url, *who, *words, stdin=f"{PASSWORD}\n", env=environment)


def test_a_code_or_a_recovery_code_is_the_second_step(
    home: Any, served: Any, factors: tuple[str, list[str], str], tmp_path: Path
) -> None:
    secret, recovery, _ = factors
    for code in (_code(secret), recovery[0]):
        done = _login(home, served, tmp_path, "--code", code)
        assert (done.returncode, done.stdout) == (0, f"Signed in at {served.url} as alice.\n"), done
        (tmp_path / ".ostiary" / "token").unlink()


def test_without_a_code_or_with_a_wrong_one_nobody_is_signed_in(
    home: Any, served: Any, factors: tuple[str, list[str], str], tmp_path: Path
) -> None:
    without = _login(home, served, tmp_path)
    said = "ostiary: a second factor is wanted: give it with --code\n"
    assert (without.returncode, without.stderr) == (1, said)
    used = _login(home, served, tmp_path, "--code", factors[2])
    assert (used.returncode, "signing in was refused: 401" in used.stderr) == (1, True), used
    assert not (tmp_path / ".ostiary" / "token").exists()


def _enrolling(user: Path, stdin: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "mfa", "enrol"],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(user),
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
        },
    )


def _shown(process: subprocess.Popen[str]) -> list[str]:
    """The lines of the QR code and that of the secret."""
    assert process.stdout is not None
    shown: list[str] = []
    while not (shown and shown[-1].startswith("Secret")):
        shown.append(process.stdout.readline())
        assert shown[-1], "it ended too early"
    return shown


def test_a_second_factor_is_got_on_the_terminal(home: Any, served: Any, caller: Any, tmp_path: Path) -> None:
    assert _login(home, served, tmp_path).returncode == 0
    with _enrolling(tmp_path, subprocess.PIPE) as process:
        shown = _shown(process)
        secret = shown[-1].split()[-1]
        said, wrong = process.communicate(_code(secret, ahead=-1) + "\n", timeout=60)
    assert process.returncode == 0, wrong
    assert "█" in shown[0]
    assert len({len(line) for line in shown[:-1]}) == 1, "a square"
    codes = [line.strip() for line in said.splitlines()[1:]]
    assert len(codes) == 10
    assert _login(home, served, tmp_path, "--code", codes[0]).returncode == 0


def test_a_first_code_that_is_mistyped_is_asked_for_again(home: Any, served: Any, tmp_path: Path) -> None:
    assert _login(home, served, tmp_path).returncode == 0
    terminal, end = os.openpty()
    with (
        os.fdopen(terminal, "wb", buffering=0) as keys,
        os.fdopen(end) as stdin,
        _enrolling(tmp_path, stdin.fileno()) as process,
    ):
        secret = _shown(process)[-1].split()[-1]
        keys.write(b"abc\n")
        keys.write(f"{_code(secret)}\n".encode())
        said, asked = process.communicate(timeout=60)
    assert process.returncode == 0, asked
    assert "The code is wrong" in asked
    assert len(said.splitlines()) == 11


def test_a_first_code_that_does_not_come_is_said(home: Any, served: Any, tmp_path: Path) -> None:
    assert _login(home, served, tmp_path).returncode == 0
    with _enrolling(tmp_path, subprocess.DEVNULL) as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "no code came" in said) == (1, True), said
