"""Passwords that are tried first are refused, however they are dressed up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.clients import password_problems
from gateway.identity.common_passwords import is_common, is_name


@pytest.mark.parametrize(
    "password",
    [
        "Password1!", "P@ssw0rd!", "P@$$w0rd2024", "Passw0rd123!", "PasswordPassword1!", "Welcome1!", "Qwerty123!",
        "Summer2026!", "Winter-2025", "!Admin1234", "Changeme1!", "Letmein99!", "ILoveYou3!", "Abcd1234!", "Azerty12!",
        ["1qaz@WSX", "Admin"][1] + "2024!", "Dragon#1", "Monkey12#", "B@seb@ll1", "M0nday-01", "Sunsh1ne!!",
        "Aa123456!", "Aaaaaaa1!", "August2024!", "June-2025",
    ],
)  # fmt: skip
def test_what_is_tried_first(password: str) -> None:
    assert is_common(password)
    assert any("tried first" in problem for problem in password_problems(password, "x"))


@pytest.mark.parametrize(
    "password",
    [
        "Correct-Horse-7-Battery",
        "Purple-Kettle-81-Moor",
        "xK4!mmQp-2vTz",
        "Summer-in-Tromso-19",
        "7391-Aa-8264-0528",
    ],
)
def test_what_is_not(password: str) -> None:
    assert not is_common(password)
    assert password_problems(password, "x") == []


@pytest.mark.parametrize("password", ["Alice2024!", "alice", "@LICE-99", "Al1ce!!1"])
def test_the_name_in_disguise(password: str) -> None:
    assert is_name(password, "alice")
    assert not is_name(password, "alina")
    assert not is_name(f"{password}-and-more", "alice")


@given(st.text(max_size=128))
def test_anything_is_read(password: str) -> None:
    is_common(password)
