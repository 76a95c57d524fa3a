"""``/openapi.json``: the gateway's own HTTP interface (OpenAPI 3.1), made from the path table and the descriptions in it.

What a service behind the gateway answers is not described here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway import __version__
from gateway.api.oauth import OAuthError
from gateway.config.shapes import NAME
from gateway.description import Description, Refusals, described, description_of
from gateway.edge.handler import GatewayRequest, Route, Routes
from gateway.model import ClientContext, Inbound
from gateway.problems import Problem

JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_PROBLEM: Final = "application/problem+json"
_REF: Final = "#/components/schemas/{name}"
_TITLES: Final = {
    200: "Done.",
    201: "Made.",
    202: "Taken; there is nothing to answer.",
    204: "Done; there is nothing to answer.",
    400: "The request cannot be understood, or is ambiguous.",
    401: "A credential is missing, or is not good.",
    403: "The caller may not do this, or the Host or Origin is not allowed.",
    404: "There is no such thing, or the caller may not know of it.",
    406: "The caller accepts nothing that could be answered.",
    408: "The request did not arrive in time.",
    409: "Conflict with what is there, or with what has changed meanwhile.",
    413: "The body is too large.",
    415: "The body is of a kind that is not accepted.",
    429: "Too many requests.",
    503: "The gateway cannot keep its records now.",
}
_MAX_PATH_PARAMETER: Final = 512
"""Characters: percent-encoded they still fit into the 8190 bytes that a request's target may have. No id is so long."""
_EVERYWHERE: Final = (400, 403, 415)
"""What the edge itself may refuse: see ``Edge``."""
_WITH_IDENTITY: Final = (401, 429, 503)
_WITH_BODY: Final = (408, 413)
_SCHEMES: Final[Mapping[str, Any]] = {
    "certificate": {"type": "mutualTLS", "description": "A client certificate that names a client."},
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "password": {"type": "http", "scheme": "basic", "description": "At the token endpoints alone."},
}


class JsonRpcError(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal of a JSON-RPC request."""

    class Error(msgspec.Struct, frozen=True, kw_only=True):
        """JSON-RPC 2.0 section 5.1."""

        code: int
        message: str
        data: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET

    jsonrpc: str
    id: int | str | None
    error: Error


class OpenApi:
    """Serves the document, which is made once."""

    def __init__(self, routes: Callable[[], Routes], public_url: str) -> None:
        """``routes``: the whole path table, once it is there."""
        self._routes = routes
        self._public_url = public_url
        self._document: bytes | None = None

    @described(Description("This document.", {200: dict[str, Any]}))
    async def get(
        self, _request: GatewayRequest, _inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``GET /openapi.json``"""
        if self._document is None:
            self._document = msgspec.json.encode(document(self._routes(), self._public_url))
        headers = {"Content-Type": JSON, "Cache-Control": "public, max-age=300"}
        return web.Response(body=self._document, headers=headers)


def document(routes: Routes, public_url: str) -> dict[str, Any]:
    """The description of every route that has one and is the gateway's own."""
    found = [
        (path, method, route, description)
        for path, method, route in routes.items()
        if (description := description_of(route.handler)) is not None and not description.forwarded
    ]
    schemas, components = _schemas(description for *_, description in found)
    paths: dict[str, dict[str, Any]] = {}
    for path, method, route, description in found:
        whole = path + (description.template or "") if path.endswith("/") else path
        operation = _operation(whole, route, description, schemas)
        paths.setdefault(whole, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ostiary",
            "version": __version__,
            "description": "The gateway's own interface. What is behind it has its own.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url}],
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


_Schemas = Mapping[Any, dict[str, Any]]


def _schemas(descriptions: Iterable[Description]) -> tuple[_Schemas, dict[str, Any]]:
    """The schema of each type, and the components that they refer to."""
    types: list[Any] = [Problem, OAuthError, JsonRpcError]
    for description in descriptions:
        types += [kind for answer in description.answers.values() for kind in _kinds(answer)]
        if description.body is not None:
            types.append(description.body)
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REF)
    return dict(zip(unique, schemas, strict=True)), components


def _kinds(answer: Any) -> tuple[Any, ...]:
    """The types that an answer may have."""
    if answer is None:
        return ()
    return answer if isinstance(answer, tuple) else (answer,)


def _operation(path: str, route: Route, description: Description, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": description.summary,
        "tags": [path.split("/")[1]],
        "parameters": [*_path_parameters(path, description), *_parameters(description), *_tenant(route)],
        "responses": dict(_responses(route, description, schemas)),
        "security": _security(route, description),
    }
    if route.needed:
        operation["description"] = f"Needs {' and '.join(route.needed)}."
    if description.body is not None:
        kinds = (JSON, _FORM) if description.form else (JSON,)
        content = {kind: {"schema": schemas[description.body]} for kind in kinds}
        operation["requestBody"] = {"required": description.needs_body, "content": content}
    return operation


def _path_parameters(path: str, description: Description) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": _MAX_PATH_PARAMETER},
            "description": description.parameters.get(name, name.replace("_", " ")),
        }


def _parameters(description: Description) -> Iterator[dict[str, Any]]:
    for place, kind in (("query", description.query), ("header", description.headers)):
        if kind is None:
            continue
        (_,), components = msgspec.json.schema_components([kind], ref_template=_REF)
        schema = components[kind.__name__]
        for name, inner in schema["properties"].items():
            yield {
                "name": name,
                "in": place,
                "required": name in schema.get("required", ()),
                "schema": {key: value for key, value in inner.items() if key != "default"},
            }


def _tenant(route: Route) -> Iterator[dict[str, Any]]:
    if route.identify:
        what = "acts on that tenant" if route.chooses_tenant else "must be the caller's own"
        yield {
            "name": "X-Tenant-ID",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"},
            "description": f"A tenant; {what}.",
        }


def _responses(
    route: Route, description: Description, schemas: _Schemas
) -> Iterator[tuple[str, dict[str, Any]]]:
    for status, kind in description.answers.items():
        response: dict[str, Any] = {"description": _TITLES[status]}
        if kind is not None:
            found = [schemas[each] for each in _kinds(kind)]
            response["content"] = {JSON: {"schema": found[0] if len(found) == 1 else {"oneOf": found}}}
        if description.streams and status == 200:
            response["content"] = response.get("content", {}) | {"text/event-stream": {}}
        yield str(status), response
    refusals = {*_EVERYWHERE, *description.refusals}
    if route.identify or description.form_of_refusals is Refusals.OAUTH:
        refusals |= {*_WITH_IDENTITY}
    if description.body is not None:
        refusals |= {*_WITH_BODY}
    forms = {_PROBLEM: {"schema": schemas[Problem]}}
    if description.form_of_refusals is Refusals.OAUTH:
        forms[JSON] = {"schema": schemas[OAuthError]}
    elif description.form_of_refusals is Refusals.MCP:
        forms[JSON] = {"schema": schemas[JsonRpcError]}
    for status in sorted(refusals - description.answers.keys()):
        yield str(status), {"description": _TITLES[status], "content": forms}


def _security(route: Route, description: Description) -> list[dict[str, list[str]]]:
    """Any one of these; an empty one: nothing is needed."""
    if description.form_of_refusals is Refusals.OAUTH:
        return [{"certificate": []}, {"password": []}, {"token": []}, {"api_key": []}, {}]
    if not route.identify:
        return []
    ways: list[dict[str, list[str]]] = [{"certificate": []}, {"token": []}, {"api_key": []}]
    return ways if route.needed else [*ways, {}]
