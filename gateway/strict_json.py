"""JSON that every reader reads alike: UTF-8, no key twice, no NaN or Infinity, no lone surrogates.

Readers differ on all of these (RFC 8259 sections 4, 6, 8.1 and 8.2), so what decides on access refuses them.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

import msgspec


class StrictJsonError(ValueError):
    """Not such JSON. The message says why and holds nothing of the content."""


def parse(raw: bytes) -> Any:
    """What ``raw`` says. Raises StrictJsonError."""
    document = _parse_compact(raw)
    return document if document is not None else _parse_any(raw)


def _parse_compact(raw: bytes) -> Any:
    """The fast way, for what compact encoders write; None: it is something else, or null.

    What comes out is encoded again. Where that gives ``raw``, byte for byte, no reader can read it differently: a key that
    is there twice, a constant, a number that is out of range or half a surrogate pair would not have come back.
    """
    try:
        document = msgspec.json.decode(raw)
        return document if msgspec.json.encode(document) == raw else None
    except (ValueError, RecursionError, OverflowError):
        return None


def _parse_any(raw: bytes) -> Any:
    try:
        document = _DECODER.decode(raw.decode())
    except StrictJsonError:
        raise
    except (ValueError, RecursionError):  # UnicodeDecodeError and numbers that are too long are among them
        raise StrictJsonError("it is not JSON") from None
    if b"\\u" in raw and not _is_text(document):
        raise StrictJsonError("a string is not text")
    return document


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``. Raises StrictJsonError."""
    document = parse(raw)
    if not isinstance(document, dict):
        raise StrictJsonError("it is not a JSON object")
    return document


def _is_text(document: object) -> bool:
    try:
        msgspec.json.encode(document)
    except (UnicodeEncodeError, OverflowError, RecursionError):
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise StrictJsonError("an object has a duplicate key")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise StrictJsonError("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise StrictJsonError("a number is out of range")
    return number


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
)
