"""A credential that the environment gives, for commands that nobody has signed in for (CI jobs).

It is presented as it is, in the place of what is stored: never renewed, never written to a file, never printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.client.errors import ClientError

TOKEN_VARIABLE: Final = "OSTIARY_TOKEN"  # noqa: S105 - a variable's name
TOKEN: Final = r"[A-Za-z0-9._~+/-]+=*"  # noqa: S105 - what one looks like
"""RFC 6750 section 2.1; API keys are of these characters, too."""
_API_KEY: Final = "osk_"


@dataclass(frozen=True, slots=True)
class GivenCredential:
    """An access token, or an API key."""

    text: str = field(repr=False)

    @property
    def header(self) -> tuple[str, str]:
        """How it is presented."""
        if self.text.startswith(_API_KEY):
            return ("X-API-Key", self.text)
        return ("Authorization", f"Bearer {self.text}")


def given_credential(environment: Mapping[str, str]) -> GivenCredential | None:
    """What OSTIARY_TOKEN holds; None: it is not set. Raises ClientError where it holds no credential."""
    text = environment.get(TOKEN_VARIABLE)
    if text is None:
        return None
    text = text.strip()
    if not text:
        raise ClientError(f"{TOKEN_VARIABLE} is empty; set it to a token, or unset it to use what is stored")
    if not re.fullmatch(TOKEN, text):
        raise ClientError(
            f"{TOKEN_VARIABLE} holds neither a token nor an API key; set it to one, or unset it"
        )
    return GivenCredential(text)
