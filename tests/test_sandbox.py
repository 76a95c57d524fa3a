"""What a child process inherits of its gateway's signals, and what it is let at."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.config.values import SandboxSettings
from gateway.mcp.sandbox import CANNOT_CONFINE, confined, probe


@pytest.mark.parametrize("ignored", ["INT", "QUIT", "HUP", "USR1"])
def test_a_command_ignores_no_signal_whatever_the_gateway_ignores(ignored: str) -> None:
    """As in a background job of a script, which has SIGINT and SIGQUIT ignored."""
    # The sandbox wants to be a child of the gateway itself, here of this test: so `env` becomes it.
    command = confined(("cat", "/proc/self/status"), SandboxSettings(), ["PATH"], os.getpid())
    done = subprocess.run(
        ["env", f"--ignore-signal={ignored}", *command], capture_output=True, text=True, check=True
    )
    (mask,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("SigIgn:")]
    assert not int(mask, 16) & 1 << (getattr(signal, f"SIG{ignored}") - 1)
    reserved = 0b11 << 31  # 32 and 33 are the C library's own, and nobody's to set
    assert not int(mask, 16) & ~reserved


def _landlock() -> int:
    """Its version; 0: this kernel has none."""
    return max(ctypes.CDLL(None).syscall(444, None, 0, 1), 0)


def _run(settings: SandboxSettings, *command: str) -> subprocess.CompletedProcess[str]:
    words = confined(command, settings, ["PATH"], os.getpid())
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_confined_command_is_let_at_nothing_but_what_is_named(tmp_path: Path) -> None:
    own, readable, writable = (tmp_path / name for name in ("own", "readable", "writable"))
    for folder in (own, readable, writable):
        folder.mkdir()
        (folder / "file").write_text(f"of {folder.name}")
    settings = SandboxSettings(read=(readable,), write=(writable,))
    if not _landlock():
        done = _run(settings, "true")
        assert (done.returncode, "Landlock" in done.stderr) == (CANNOT_CONFINE, True)
        return
    assert _run(settings, "cat", f"{readable}/file").stdout == "of readable"
    assert _run(settings, "cat", f"{writable}/file").stdout == "of writable"
    assert _run(settings, "sh", "-c", f"echo new > {writable}/new && cat {writable}/new").stdout == "new\n"
    assert _run(settings, "sh", "-c", "cat /etc/passwd > /dev/null").returncode == 0
    for refused in (
        ("cat", f"{own}/file"),
        ("ls", str(own)),
        ("sh", "-c", f"echo x > {own}/new"),
        ("sh", "-c", f"echo x > {readable}/file"),
        ("rm", f"{own}/file"),
        ("sh", "-c", f"ln {own}/file {writable}/link"),
        ("sh", "-c", f"ln -s {own}/file {writable}/soft; cat {writable}/soft"),
        ("cat", f"/proc/{os.getpid()}/environ"),
    ):
        done = _run(settings, *refused)
        assert done.returncode != 0, refused
        assert "ermission denied" in done.stderr or "cross-device" in done.stderr, (refused, done.stderr)
    assert (own / "file").read_text() == "of own"
    assert (readable / "file").read_text() == "of readable"


@pytest.mark.skipif(not _landlock(), reason="this kernel has no Landlock")
def test_a_confined_command_has_the_harmless_devices_alone() -> None:
    script = "echo x > /dev/null && head -c 1 /dev/urandom > /dev/null && ! ls /dev && ! cat /dev/ptmx"
    done = _run(SandboxSettings(read=()), "sh", "-c", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(_landlock() < 6, reason="this kernel's Landlock (before Linux 6.12) knows no signals")
def test_a_confined_command_cannot_signal_its_gateway(tmp_path: Path) -> None:
    done = _run(SandboxSettings(read=()), "sh", "-c", f"kill -CONT {os.getpid()}")
    assert done.returncode != 0
    assert "not permitted" in done.stderr


@pytest.fixture(scope="module")
def can() -> dict[str, Any]:
    return probe()


def test_the_probe_says_which_landlock_there_is(can: dict[str, Any]) -> None:
    assert can["landlock"] == _landlock()


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_the_gateways_own_files_are_hidden_from_a_command(
    tmp_path: Path, can: dict[str, Any], user: str
) -> None:
    if not can["hides"]:
        pytest.skip("this system has no mount namespaces for it")
    if os.geteuid() != 0 and user != "root":
        pytest.skip("only root can change users")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    store, kept, secret, new = (tmp_path / name for name in ("store", "certs", "secret.key", "new"))
    for folder in (store, kept):
        folder.mkdir()
        (folder / "file").write_text(f"of {folder.name}")
    secret.write_text("the secret")
    for path in (tmp_path, store, kept, secret, store / "file", kept / "file"):
        path.chmod(0o777)
    script = f"""
        cat {store}/file {secret}; ls {store}; echo x > {kept}/file; rm -f {kept}/file; mv {kept} {kept}2; echo x > {store}/more
        umount {store}; unshare -Ur umount {secret}; cat /proc/$PPID/environ > /dev/null && echo environ
        cat /proc/$PPID/root/{secret}; echo x > {secret}
        cat {kept}/file; echo x > {new} && echo new
    """
    words = confined(
        ("sh", "-c", script),
        SandboxSettings(user=None if user == "root" else user),
        ["PATH"],
        os.getpid(),
        hidden=(store, secret, tmp_path / "not-there"),
        read_only=(kept, tmp_path / "nor-this"),
    )
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "of certsnew\n", done.stderr
    assert (secret.read_text(), (store / "file").read_text()) == ("the secret", "of store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["certs", "new", "secret.key", "store"]


def test_a_command_is_run_where_nothing_can_be_hidden(tmp_path: Path) -> None:
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    words = confined(("echo", "runs"), SandboxSettings(), ["PATH"], os.getpid(), hidden=(nobody,))
    if os.geteuid() != 0:
        pytest.skip("only root has a capability to lose")
    bereft = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 21, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", bereft, *words], capture_output=True, text=True, check=False)
    assert done.stdout == "runs\n"
    assert "the gateway's own files cannot be hidden here: unshare" in done.stderr
