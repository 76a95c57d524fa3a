"""What a child process inherits of its gateway's signals, and what it is let at."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.config.values import SandboxSettings
from gateway.mcp.confinement import confined, probe
from gateway.mcp.sandbox import CANNOT_CONFINE


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


WITHOUT_MOUNTS = """
import ctypes, os, sys
call = ctypes.CDLL(None)
if os.geteuid() == 0:
    call.prctl(24, 21, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_ADMIN
else:
    user, group = os.geteuid(), os.getegid()
    call.unshare(0x10000000)  # CLONE_NEWUSER, in which no further namespace may be made
    for name, text in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
        open(f"/proc/self/{name}", "w").write(text)
    for kind in "user", "mnt":
        open(f"/proc/sys/user/max_{kind}_namespaces", "w").write("0")
"""
WITHOUT_LANDLOCK = """
import ctypes, struct
steps = ((0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000))
steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(steps)))
call = ctypes.CDLL(None)
call.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
assert call.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP: landlock_create_ruleset is not known (ENOSYS)
"""
BECOME = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"


@dataclass
class Own:
    """A gateway's folder, and how a command is kept from it."""

    folder: Path
    prefix: list[str]
    user: str | None = None

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    @property
    def secret(self) -> Path:
        return self.folder / "secret.key"

    def starts(self, script: str) -> subprocess.Popen[str]:
        """A shell that runs that in the folder, where nothing of it may be seen that is hidden."""
        words = confined(
            ("sh", "-c", script),
            SandboxSettings(user=self.user),
            ["PATH"],
            os.getpid(),
            hidden=(self.store, self.secret, self.certs / "server.key", self.certs / "ca.key"),
            read_only=(self.folder / "ostiary.toml", self.certs, self.folder / "crl.pem"),
        )
        return subprocess.Popen(
            [*self.prefix, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )

    def put(self, path: Path, content: str) -> None:
        """As everything here replaces a file: by another that is renamed over it."""
        new = path.with_name("n")
        new.write_text(content)
        new.chmod(0o666)
        new.rename(path)


@pytest.fixture(params=["mounts", "mounts as nobody", "landlock", "landlock as nobody"])
def own(request: pytest.FixtureRequest, tmp_path: Path, can: dict[str, Any]) -> Own:
    how, _, user = request.param.partition(" as ")
    if how == "mounts" and not can["hides"]:
        pytest.skip("this system has no mount namespaces for it")
    if how == "landlock" and not can["landlock"]:
        pytest.skip("this kernel has no Landlock")
    if user and os.geteuid() != 0:
        pytest.skip("only root can change users")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    prefix = [sys.executable, "-c", WITHOUT_MOUNTS + BECOME] if how == "landlock" else []
    made = Own(tmp_path / "gateway", prefix, user or None)
    for folder in (made.folder, made.store, made.certs, made.folder / "work"):
        folder.mkdir()
        folder.chmod(0o777)
        made.put(folder / "file", f"of {folder.name}")
    for path in (made.secret, made.certs / "server.key", made.folder / "secret.key.old"):
        made.put(path, "the secret")
    made.put(made.folder / "ostiary.toml", "the configuration")
    return made


def _tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_gateways_own_files_are_hidden_from_a_command(own: Own) -> None:
    before = _tree(own.folder)
    folder, store, secret = own.folder, own.store, own.secret
    shell = own.starts(f"""
        cat {store}/file {secret} secret.key certs/server.key secret.key.old
        cat /proc/$PPID/environ > /dev/null && echo environ
        cat /proc/$PPID/root/{secret} /proc/$PPID/cwd/secret.key
        umount {store}; umount {folder}; unshare -Ur umount {folder}; unshare -Ur cat {secret}
        ln {secret} work/linked && cat work/linked; mv {secret} work/moved && cat work/moved
        cat certs/file ostiary.toml file work/file
    """)
    said, refused = shell.communicate()
    assert said == "of certsthe configurationof gatewayof work", refused
    assert _tree(own.folder) == before


def test_the_gateways_own_files_cannot_be_changed_by_a_command(own: Own) -> None:
    before = _tree(own.folder)
    folder, above = own.folder, own.folder.parent
    shell = own.starts(f"""
        for path in certs/file certs/new ostiary.toml crl.pem new secret.key store/more; do echo x > $path; done
        rm -f certs/file ostiary.toml file secret.key; mkdir more; ln -s file link
        mv certs certs2; mv ostiary.toml moved; mv work/file ostiary.toml; mv store store2
        mv {folder} {folder}2; mv {above} {above}2 && mkdir -p {folder}
        echo x >> work/file && echo x > work/new && mkdir work/folder && mv work/new work/folder && echo done
    """)
    said, refused = shell.communicate()
    assert said == "done\n", refused
    assert _tree(own.folder) == before | {"work/file": "of workx\n", "work/folder/new": "x\n"}


def test_what_replaces_a_hidden_file_is_hidden_as_well(own: Own) -> None:
    """And what comes into being beside it: a CA's key that was not there, and the copy that an editor leaves."""
    shell = own.starts("""
        echo ready; read go
        cat secret.key certs/server.key certs/ca.key secret.bak .n certs/.n store/file store/new crl.pem work/new
        echo x > ostiary.toml; echo x > crl.pem; cat ostiary.toml
    """)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "ready\n"
    for path in (own.secret, own.certs / "server.key", own.certs / "ca.key", own.store / "file"):
        own.put(path, "the new secret")
    for path in (own.folder / "secret.bak", own.folder / ".n", own.certs / ".n", own.store / "new"):
        own.put(path, "the new secret")
    own.put(own.folder / "ostiary.toml", "the new configuration")
    own.put(own.folder / "crl.pem", "the CRL")
    own.put(own.folder / "work" / "new", "the work")
    said, refused = shell.communicate("go\n")
    assert said in {"the workthe configuration", "the work"}, refused
    assert (own.folder / "ostiary.toml").read_text() == "the new configuration"
    assert (own.folder / "crl.pem").read_text() == "the CRL"


def test_a_secret_is_hidden_where_links_lead_to_it(own: Own) -> None:
    """As certificate clients lay them out: a link that shows to the newest of several files."""
    live, archive = own.folder / "certs", own.folder.parent / "archive"
    archive.mkdir()
    archive.chmod(0o777)
    own.put(archive / "key1.pem", "the secret")
    own.put(archive / "chain1.pem", "the chain")
    (live / "server.key").unlink()
    (live / "server.key").symlink_to("../../archive/key1.pem")
    script = f"echo ready; read go; cat certs/server.key {archive}/key1.pem {archive}/key2.pem; cat {archive}/chain1.pem"
    shell = own.starts(script)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "ready\n"
    own.put(archive / "key2.pem", "the new secret")
    (live / "n").symlink_to("../../archive/key2.pem")
    (live / "n").rename(live / "server.key")
    assert shell.communicate("go\n")[0] == "the chain"


def test_a_command_is_run_where_nothing_can_be_hidden(tmp_path: Path) -> None:
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    words = confined(("echo", "runs"), SandboxSettings(), ["PATH"], os.getpid(), hidden=(nobody,))
    bereft = [sys.executable, "-c", WITHOUT_MOUNTS + WITHOUT_LANDLOCK + BECOME, *words]
    done = subprocess.run(bereft, capture_output=True, text=True, check=False)
    assert done.stdout == "runs\n"
    assert "the gateway's own files cannot be hidden here: " in done.stderr
    assert "and there is no Landlock" in done.stderr
