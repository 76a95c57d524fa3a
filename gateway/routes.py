"""The path table: what answers which path and method."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

from aiohttp import web

from gateway.description import description_of
from gateway.edge.reply import GatewayRequest
from gateway.model import ClientContext, Inbound

Handler = Callable[[GatewayRequest, Inbound, ClientContext], Awaitable[web.StreamResponse]]
_Methods = Mapping[str, "Route"]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a path and method, and what its caller needs."""

    handler: Handler
    needed: tuple[str, ...] = ()
    identify: bool = True
    """False: the handler answers anyone who can connect, whatever credentials come along."""
    chooses_tenant: bool = False
    """Whether ``X-Tenant-ID`` may name another tenant than the caller's, for the platform's administrators."""


class Routes:
    """Whole paths first, then the longest prefix (which ends in ``/``)."""

    def __init__(self, exact: Mapping[str, _Methods], prefixes: Mapping[str, _Methods]) -> None:
        """Each maps a path to its methods; ``*`` stands for every method.

        What follows a prefix must be as the template of a handler's description has it, where there is one.
        """
        self._exact = exact
        self._prefixes = [
            (prefix, _by_template(prefixes[prefix])) for prefix in sorted(prefixes, key=len, reverse=True)
        ]

    def items(self) -> Iterator[tuple[str, str, Route]]:
        """Every path (a prefix ends in ``/``) and method, with what answers it."""
        tables = [
            *self._exact.items(),
            *((p, methods) for p, groups in self._prefixes for _, methods in groups),
        ]
        for path, methods in tables:
            for method, route in methods.items():
                yield path, method, route

    def methods(self, path: str) -> _Methods:
        """The methods of that path; empty: there is no such path."""
        methods = self._exact.get(path)
        if methods is not None:
            return methods
        for prefix, groups in self._prefixes:
            if path.startswith(prefix):
                for pattern, of_group in groups:
                    if pattern is None or pattern.fullmatch(path, len(prefix)):
                        return of_group
                return {}
        return {}


def _by_template(methods: _Methods) -> list[tuple[re.Pattern[str] | None, _Methods]]:
    """The methods of a prefix, those of one template together; what answers any path comes last."""
    groups: dict[str | None, dict[str, Route]] = {}
    for method, route in methods.items():
        description = description_of(route.handler)
        template = None if description is None else description.template
        groups.setdefault(template, {})[method] = route
    found = [(_pattern(template), of_group) for template, of_group in groups.items()]
    return sorted(found, key=lambda group: group[0] is None)


def _pattern(template: str | None) -> re.Pattern[str] | None:
    """``{name}`` stands for one segment."""
    if template is None:
        return None
    parts = re.split(r"\{\w+\}", template)
    return re.compile("[^/]+".join(re.escape(part) for part in parts))
