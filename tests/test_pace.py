"""What is asked for again and again is done at a pace."""

from __future__ import annotations

from gateway.mcp.pace import Pace


def test_pauses_grow_and_begin_anew_after_a_while() -> None:
    pace, now, waits = Pace(0.5, 5.0), 100.0, []
    for _ in range(8):
        waits.append(pace.wait(now))
        now += waits[-1]
        pace.begun(now)
    assert waits == [0, 0, 0.5, 1, 2, 4, 5, 5]
    now += 10.5
    for expected in (0, 0, 0.5):
        assert pace.wait(now) == expected
        now += expected
        pace.begun(now)
