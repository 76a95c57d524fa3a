"""The programs under bench/ that need no peer run: what they import is there, and they print their tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_durable_appends_are_measured() -> None:
    printed = run("bench.journal", "--seconds", "0.02")
    assert all(f" {waiting} " in printed for waiting in (1, 8, 64, 512))


def test_the_store_is_measured() -> None:
    assert "longest pause" in run("bench.store", "--tokens", "1500", "--runs", "1")


def test_every_module_can_be_imported() -> None:
    modules = sorted(path.stem for path in (ROOT / "bench").glob("[a-z]*.py"))
    assert "journal" in modules
    subprocess.run(
        [sys.executable, "-c", "import " + ", ".join(f"bench.{module}" for module in modules)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
