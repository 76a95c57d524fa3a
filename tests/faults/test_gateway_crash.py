"""A short run of the crash harness; `make crash ROUNDS=1000` is a long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROUNDS = 4


def test_nothing_is_lost_when_the_gateway_is_killed(tmp_path):
    done = subprocess.run(
        [sys.executable, "tests/faults/crash.py", "--rounds", str(ROUNDS), "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ROUNDS} kills" in done.stdout
    assert "nothing lost" in done.stdout
