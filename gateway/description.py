"""What a handler's description says of it; ``/openapi.json`` is made of these, so each stands beside its handler.

    @described(Description("Ends a session.", {204: None}, refusals=(404,), template="{session_id}"))
    async def end(self, request, inbound, context): ...

The statuses of refusals that any route may answer are added where the document is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import msgspec

_ATTRIBUTE = "ostiary_description"


class Refusals(Enum):
    """The form in which a route refuses."""

    PROBLEM = "application/problem+json"
    OAUTH = "RFC 6749 section 5.2"
    MCP = "JSON-RPC, where the request has an id"


@dataclass(frozen=True, slots=True)
class Description:
    """One handler, for whoever calls it."""

    summary: str
    """One sentence."""
    answers: Mapping[int, Any]
    """By status: the type of the JSON body, a tuple where it is one of several; None: there is no body."""
    query: type[msgspec.Struct] | None = None
    headers: type[msgspec.Struct] | None = None
    """Its fields' encoded names are header names."""
    body: Any = None
    """The type of the JSON body; None: there is none."""
    needs_body: bool = True
    form: bool = False
    """Whether the body may be a form of the same fields, too."""
    refusals: tuple[int, ...] = ()
    """Statuses of refusals that not every route has."""
    form_of_refusals: Refusals = Refusals.PROBLEM
    streams: bool = False
    """Whether 200 may be a stream of events."""
    template: str | None = None
    """What follows a path that ends in ``/``, with names in braces."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What each name in the template is."""
    forwarded: bool = False
    """Whether somebody else answers: then the document does not speak of it."""


F = TypeVar("F", bound=Callable[..., Any])


def described(description: Description) -> Callable[[F], F]:
    """Say what a handler does."""

    def describe(handler: F) -> F:
        setattr(handler, _ATTRIBUTE, description)
        return handler

    return describe


def description_of(handler: Callable[..., Any]) -> Description | None:
    """What was said of it; None: nothing."""
    found = getattr(handler, _ATTRIBUTE, None)
    return found if isinstance(found, Description) else None
