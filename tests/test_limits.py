"""Token buckets: how much goes through, how long to wait, and that they stay few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import limits
from gateway.limits import TokenBuckets, network_of


def test_a_full_bucket_gives_its_burst_then_says_how_long_to_wait() -> None:
    buckets = TokenBuckets(60, 3)
    assert [buckets.take("a", 100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.take("a", 100.0) == pytest.approx(1.0)
    assert buckets.take("a", 100.4) == pytest.approx(0.6)
    assert buckets.take("a", 101.0) == 0.0


def test_a_refused_take_takes_nothing() -> None:
    buckets = TokenBuckets(60, 1)
    assert buckets.take("a", 0.0) == 0.0
    for _ in range(100):
        assert buckets.take("a", 0.5) > 0
    assert buckets.take("a", 1.0) == 0.0


def test_keys_have_their_own_buckets() -> None:
    buckets = TokenBuckets(60, 1)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("b", 0.0) == 0.0
    assert buckets.take("a", 0.0) > 0


def test_wait_tells_what_take_would_answer_and_takes_nothing() -> None:
    buckets = TokenBuckets(60, 1)
    assert buckets.wait("a", 0.0) == 0.0
    assert buckets.wait("a", 0.0) == 0.0
    buckets.take("a", 0.0)
    assert buckets.wait("a", 0.25) == pytest.approx(0.75)
    assert buckets.wait("a", 1.0) == 0.0


def test_a_rate_of_zero_is_no_limit_and_keeps_nothing() -> None:
    buckets = TokenBuckets(0, 1)
    assert all(buckets.take("a", 0.0) == 0.0 for _ in range(1000))
    assert len(buckets) == 0


def test_full_buckets_are_dropped() -> None:
    buckets = TokenBuckets(60, 5)
    for number in range(10_000):
        buckets.take(f"key {number}", float(number))
    assert len(buckets) < 2048


def test_memory_is_bounded_when_no_bucket_ever_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_KEYS", 2048)
    buckets = TokenBuckets(1, 5)
    for number in range(20_000):
        assert buckets.take(f"key {number}", 0.0) == 0.0
    assert len(buckets) <= 2048
    for _ in range(5):
        buckets.take("last", 0.0)
    assert buckets.take("last", 0.0) > 0


@given(
    rate=st.integers(1, 10_000),
    burst=st.integers(1, 100),
    pauses=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=200),
)
def test_never_more_than_burst_and_rate(rate: int, burst: int, pauses: list[float]) -> None:
    buckets = TokenBuckets(rate, burst)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        taken += buckets.take("key", now) == 0.0
    assert taken <= burst + now * rate / 60 + 1e-6


@given(rate=st.integers(1, 10_000), burst=st.integers(1, 100), attempts=st.integers(1, 200))
def test_whoever_waits_as_told_gets_a_token(rate: int, burst: int, attempts: int) -> None:
    buckets = TokenBuckets(rate, burst)
    now = 0.0
    for _ in range(attempts):
        wait = buckets.take("key", now)
        if wait:
            now += wait
            assert buckets.take("key", now) == 0.0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_ipv6_counts_by_network(address: str, network: str) -> None:
    assert network_of(address) == network
