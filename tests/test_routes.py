"""The path table: whole paths, prefixes, and what follows a prefix."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.description import Description, described
from gateway.routes import Route, Routes


def _route(template: str | None = None) -> Route:
    async def handler(*_: Any) -> Any:
        raise NotImplementedError

    return Route(described(Description("Something.", {}, template=template))(handler))


ROUTES = Routes(
    {"/keys": {"GET": _route(), "POST": _route()}},
    {
        "/keys/": {
            "DELETE": _route("{key_id}"),
            "GET": _route("{key_id}"),
            "POST": _route("{key_id}/rotate"),
        },
        "/api/": {"*": _route()},
        "/api/v1/": {"GET": _route()},
    },
)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/keys", "GET POST"),
        ("/keys/", ""),
        ("/keys/a", "DELETE GET"),
        ("/keys/a%2Fb", "DELETE GET"),
        ("/keys/a/rotate", "POST"),
        ("/keys/a/rotates", ""),
        ("/keys/a/b/rotate", ""),
        ("/keys//rotate", ""),
        ("/api/", "*"),
        ("/api/a/b/c", "*"),
        ("/api/v1/a/b", "GET"),
        ("/api", ""),
        ("/", ""),
    ],
)
def test_a_path_has_the_methods_of_its_own(path: str, methods: str) -> None:
    assert " ".join(sorted(ROUTES.methods(path))) == methods


def test_every_route_is_listed_once() -> None:
    listed = [(path, method) for path, method, _ in ROUTES.items()]
    assert len(listed) == len(set(listed)) == 7
