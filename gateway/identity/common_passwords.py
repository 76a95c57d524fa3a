"""Passwords that everybody tries first, and how they are disguised.

The rules for passwords want a capital, a digit and a special character, so people write ``Password1!`` and ``P@ssw0rd2024``.
What is compared is what is left without the disguise: lower case, without what stands before and after the letters, with
letters for the signs that stand for them. So each word of the list stands for some thousands of passwords.
"""

from __future__ import annotations

from importlib.resources import files
from itertools import product
from typing import Final

_SIGNS: Final = {
    "@": "a", "4": "a", "8": "b", "(": "c", "3": "e", "€": "e", "6": "g", "9": "g", "#": "h", "!": "i",
    "1": "il", "|": "il", "0": "o", "5": "s", "$": "s", "7": "t", "+": "t", "2": "z",
}  # fmt: skip
_MOST_READINGS: Final = 64
_SHORT: Final = 12
"""Characters; a longer password may have but one letter among its digits and signs."""
_LEAST: Final = 3
"""Letters of a name that is looked for."""
_WORDS: Final = frozenset(
    files("gateway.identity").joinpath("common_passwords.txt").read_text("ascii").split()
)
"""Without their disguise, one a line."""


def is_common(password: str) -> bool:
    """Whether a password, without its disguise, is one of those that are tried first."""
    readings = _readings(password.casefold())
    one_letter = len(password) <= _SHORT and len(set(_letters(readings[0]))) == 1
    return one_letter or any(_in_the_list(_letters(reading)) for reading in readings)


def is_name(password: str, name: str) -> bool:
    """Whether a password, without its disguise, is the name of its account."""
    letters = _letters(name.casefold())
    if password.casefold() == name.casefold():
        return True
    return len(letters) >= _LEAST and any(
        _letters(reading) == letters for reading in _readings(password.casefold())
    )


def _readings(text: str) -> list[str]:
    """As it stands, without the digits and signs around it, and with letters for signs."""
    core = text.strip("0123456789 \t!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~€")
    readings = [core]
    for whole in {text, core, text.rstrip("0123456789!?.*#-_ "), text.rstrip("!?.*#-_ ")}:
        choices = [_SIGNS.get(character, character) for character in whole]
        readings += [
            "".join(letters) for _, letters in zip(range(_MOST_READINGS), product(*choices), strict=False)
        ]
    return readings


def _letters(reading: str) -> str:
    return "".join(character for character in reading if character.isalpha())


def _in_the_list(letters: str) -> bool:
    half = letters[: len(letters) // 2]
    return letters in _WORDS or (half in _WORDS and half * 2 == letters)
