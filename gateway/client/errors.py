"""What goes wrong on the client's side: one line that says what to do, and holds no secret."""

from __future__ import annotations


class ClientError(Exception):
    """It could not be done."""


class LoginRequiredError(ClientError):
    """There is no token, or none that can be renewed."""

    def __init__(self, origin: str, why: str) -> None:
        super().__init__(f"{why}; sign in: ostiary login {origin}")


class BrokenOffError(ClientError):
    """An answer ended before it was whole."""

    def __init__(self, why: str = "the gateway broke off its answer; try again") -> None:
        super().__init__(why)


class UnusableAnswerError(ClientError):
    """An answer came that is none."""
