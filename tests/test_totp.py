"""RFC 6238, appendix B, and RFC 4226, appendix D."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.totp import STEP, code_at, matching_step, otpauth_uri

SECRETS = {"sha1": b"1234567890" * 2, "sha256": (b"1234567890" * 4)[:32], "sha512": (b"1234567890" * 7)[:64]}


@pytest.mark.parametrize(
    ("now", "sha1", "sha256", "sha512"),
    [
        (59, "94287082", "46119246", "90693936"),
        (1111111109, "07081804", "68084774", "25091201"),
        (1111111111, "14050471", "67062674", "99943326"),
        (1234567890, "89005924", "91819424", "93441116"),
        (2000000000, "69279037", "90698825", "38618901"),
        (20000000000, "65353130", "77737706", "47863826"),
    ],
)
def test_rfc_6238(now: int, sha1: str, sha256: str, sha512: str) -> None:
    for digest, expected in (("sha1", sha1), ("sha256", sha256), ("sha512", sha512)):
        assert code_at(SECRETS[digest], now // STEP, digits=8, digest=digest) == expected


def test_rfc_4226() -> None:
    expected = [
        "755224",
        "287082",
        "359152",
        "969429",
        "338314",
        "254676",
        "287922",
        "162583",
        "399871",
        "520489",
    ]
    assert [code_at(SECRETS["sha1"], counter) for counter in range(10)] == expected


@given(st.binary(min_size=20, max_size=20), st.integers(3000, 2**33), st.integers(-3, 3))
def test_one_step_of_drift_and_no_more(secret: bytes, now: int, drift: int) -> None:
    step = now // STEP + drift
    found = matching_step(secret, code_at(secret, step), now)
    if abs(drift) <= 1:
        assert found is not None
    else:
        assert found is None or code_at(secret, found) == code_at(secret, step)


def test_the_uri() -> None:
    uri = otpauth_uri(b"1234567890" * 2, issuer="Gate (a b)", account="al:ice")
    assert uri == (
        "otpauth://totp/Gate%20%28a%20b%29:al%3Aice?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
        "&issuer=Gate%20%28a%20b%29&algorithm=SHA1&digits=6&period=30"
    )
