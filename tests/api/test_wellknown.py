"""The documents that clients discover the gateway by."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from gateway.api.wellknown import WellKnown, resource_identifiers
from gateway.model import ANONYMOUS

if TYPE_CHECKING:
    from tests.api.conftest import World

URL = "https://gate.example"
WELL_KNOWN = "/.well-known/oauth-protected-resource"


async def _documents(world: World) -> dict[str, dict[str, Any]]:
    names = [upstream.name for upstream in world.config.upstreams]
    handlers = WellKnown(world.config, names, lambda: {"keys": []}).documents
    documents = {}
    for path, handler in handlers.items():
        nothing: Any = None
        response = cast("web.Response", await handler(nothing, nothing, ANONYMOUS))
        assert response.content_type == "application/json"
        documents[path] = json.loads(cast("bytes", response.body))
    return documents


async def test_each_resource_is_the_url_that_its_document_was_derived_from(world: World) -> None:
    documents = await _documents(world)
    about_resources = {path for path in documents if path.startswith(WELL_KNOWN)}
    assert about_resources == {WELL_KNOWN, f"{WELL_KNOWN}/mcp", f"{WELL_KNOWN}/mcp/files"}
    for path in about_resources:
        assert documents[path]["resource"] == URL + path.removeprefix(WELL_KNOWN)
        assert documents[path]["authorization_servers"] == [URL]


async def test_a_token_may_be_asked_for_every_resource_that_is_described(world: World) -> None:
    described = {
        document["resource"] for document in (await _documents(world)).values() if "resource" in document
    }
    assert described < resource_identifiers(world.config)
    for resource in described:
        assert (await world.post(form={"resource": resource}, cert="alice")).status == 200


async def test_an_audience_of_its_own_is_no_name_for_what_is_described(world: World) -> None:
    tokens = dataclasses.replace(world.config.tokens, audience="urn:example:gate")
    world.config = dataclasses.replace(world.config, tokens=tokens)
    assert (await _documents(world))[f"{WELL_KNOWN}/mcp"]["resource"] == f"{URL}/mcp"
    assert resource_identifiers(world.config) == {
        "urn:example:gate",
        URL,
        f"{URL}/",
        f"{URL}/mcp",
        f"{URL}/mcp/files",
    }
