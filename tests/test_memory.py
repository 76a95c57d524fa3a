"""Memory that is free goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAGMENTED = """
from pathlib import Path
from gateway.memory import Allocator

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

allocator = Allocator()
pieces = [bytes(1000) for _ in range(100_000)]
kept = pieces[::1000]
del pieces
before = resident()
allocator.give_back()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_is_free_between_what_is_kept_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) > 50_000_000
