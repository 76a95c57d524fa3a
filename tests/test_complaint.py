"""What an upstream can be the cause of again and again does not fill the log."""

from __future__ import annotations

import pytest

from gateway.mcp.complaint import PAUSE, Complaint


def test_it_is_said_once_a_minute_with_how_often_it_was(caplog: pytest.LogCaptureFixture) -> None:
    now = 7.0
    complaint = Complaint(lambda: now)
    for _ in range(30_000):
        complaint.warn("upstream u does what it may not")
    assert caplog.messages == ["upstream u does what it may not"]
    now += PAUSE
    complaint.warn("upstream u does what it may not")
    assert caplog.messages[1:] == [
        "upstream u does what it may not (and 29999 times more since that was logged last)"
    ]
    now += PAUSE
    complaint.warn("upstream u does what it may not")
    assert caplog.messages[2:] == ["upstream u does what it may not"]
