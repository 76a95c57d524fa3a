"""A disk that is really full, under the real gateway: it refuses, keeps what it acknowledged, and goes on by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DISK_BYTES = 2 << 20


def prepare(home: Any) -> None:
    """A client with a certificate."""
    home.client("reports")


class SmallDisk:
    """A small tmpfs with the store on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, _pid: int) -> None:
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def fill_but(self, free: int) -> None:
        """Leave so many bytes."""
        found = os.statvfs(self.folder)
        self._ballast.write_bytes(bytes(found.f_bavail * found.f_frsize - free))

    def free(self, _pid: int) -> None:
        self._ballast.unlink()


class FileSizeLimit:
    """No file may grow beyond what a fresh journal has: writes fail as they do on a full disk (with EFBIG)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))

    def free(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture(params=["tmpfs", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk | FileSizeLimit]:
    if request.param == "tmpfs":
        yield request.getfixturevalue("small_disk")
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    yield FileSizeLimit(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs; the limit on file sizes stands for it")
    options = f"size={DISK_BYTES},mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(
            f"no tmpfs can be mounted here; the limit on file sizes stands for it: {mounted.stderr!r}"
        )
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_flood_of_refusals_leaves_room_for_known_callers(small_disk, home, caller, wait_until):
    """Anybody can be refused; that must not bring the audit's "no action without it" upon everybody."""
    store = small_disk.folder / "store"
    subprocess.run(["cp", "-a", str(home.folder / "persistence"), str(store)], check=True)
    home.configure("", settings={"storage": {"path": str(store)}})
    served = home.serve()
    stranger, reports = caller(served), caller(served, home.folder / "clients" / "reports")

    def refused(times: int) -> None:
        for _ in range(times):
            assert stranger.ask("GET", "/audit", headers={"Authorization": "Bearer x"}).status == 401

    def entered() -> int:
        found = home.json("audit", "query", "--event", "auth_failed", "--limit", "1000")["entries"]
        return sum(entry["count"] for entry in found)

    refused(5)
    small_disk.fill_but(DISK_BYTES // 8)
    wait_until(lambda: reports.ask("GET", "/health/ready").json["degraded"] == ["disk"], seconds=20)
    before = entered()
    size = sum(path.stat().st_size for path in store.glob("journal-*"))
    refused(300)
    assert entered() == before
    assert sum(path.stat().st_size for path in store.glob("journal-*")) <= size + 65536
    assert [reports.ask("GET", "/auth/token").status for _ in range(20)] == [200] * 20
    assert "they are summed up in memory until it has room" in served.log.read_text()
    small_disk.free(served.process.pid)
    wait_until(lambda: entered() == before + 300, seconds=20)
    assert reports.ask("GET", "/health/ready").json["degraded"] == []
    assert served.stop() == 0
    assert home.json("audit", "verify")["intact"] is True


def test_full_then_free_again(disk, home, caller, wait_until):
    store = disk.folder / "store"
    subprocess.run(["cp", "-a", str(home.folder / "persistence"), str(store)], check=True)
    home.configure("", settings={"storage": {"path": str(store)}})
    served = home.serve()
    reports = caller(served, home.folder / "clients" / "reports")

    def issue() -> str | None:
        answer = reports.ask("GET", "/auth/token")
        if answer.status == 503:
            return None
        assert answer.status == 200, answer
        return answer.json["access_token"]

    def listed(token: str) -> int:
        return reports.ask(
            "POST",
            "/mcp",
            '{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}',
            {
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "Authorization": f"Bearer {token}",
            },
        ).status

    def revoke(token: str) -> int:
        return (
            caller(served, home.folder / "clients" / "reports", token)
            .form("/auth/revoke", token=token)
            .status
        )

    tokens = [issue() for _ in range(20)]
    assert revoke(tokens[0]) == 200
    disk.fill(served.process.pid)
    for _ in range(2000):  # what is left of the last page may take some
        token = issue()
        if token is None:
            break
        tokens.append(token)
    else:
        raise AssertionError("the disk is full, and tokens are still issued")
    ready = reports.ask("GET", "/health/ready")
    assert (ready.status, ready.json["degraded"][0]) == (503, "store")
    assert reports.ask("GET", "/health/live").status == 200
    assert revoke(tokens[1]) == 503
    assert listed(tokens[1]) == 200
    assert listed(tokens[0]) == 401
    if isinstance(disk, SmallDisk):  # the limit is on the log file, too
        wait_until(lambda: served.log.read_text().count("no checkpoint of") >= 2, seconds=20)
    assert issue() is None
    disk.free(served.process.pid)
    wait_until(lambda: reports.ask("GET", "/health/ready").status == 200, seconds=40)
    assert revoke(tokens[1]) == 200
    tokens.append(issue())
    served.kill()

    served = home.serve()
    reports = caller(served, home.folder / "clients" / "reports")
    assert [listed(token) for token in tokens] == [401, 401] + [200] * (len(tokens) - 2)
    issued = home.json("audit", "query", "--event", "token_issued", "--limit", "1000")["entries"]
    assert len([entry for entry in issued if entry["status"] == "ok"]) == len(tokens)
    recovered = home.json("audit", "query", "--event", "store_recovered")["entries"]
    assert "write_failed" in [entry["reason"] for entry in recovered]
    assert home.json("store", "check")["ok"] is True
