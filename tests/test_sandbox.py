"""What a child process inherits of its gateway's signals."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from gateway.config import SandboxSettings
from gateway.mcp.sandbox import confined


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
