"""The demo, ended before its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def working_in(folder: Path) -> list[int]:
    """The processes whose working folder is somewhere in ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
        except OSError:  # it has ended, or is another's
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_demo_that_is_ended_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.demo"],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as demo:  # fmt: skip
        try:
            assert demo.stdout is not None
            for line in demo.stdout:
                if "ostiary init" in line:  # the servers run
                    break
            assert len(working_in(tmp_path)) >= 2
            demo.send_signal(number)
            rest = demo.stdout.read()
            assert demo.wait(timeout=30) == 1
        finally:
            demo.kill()
    assert rest.endswith("nothing is left behind.\n")
    assert "as it should be" not in rest
    assert (list(tmp_path.iterdir()), working_in(tmp_path)) == ([], [])
