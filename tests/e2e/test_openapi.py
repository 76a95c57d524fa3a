"""``/openapi.json`` is true: every route is described, and every description is routed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.app import open_gateway
from gateway.config.reader import read_config
from gateway.description import description_of
from gateway.edge.handler import Routes

ADMIN_PASSWORD = "Correct-Horse-7-Battery"
ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = """
[roles]
auditor = ["audit:read"]

[[upstreams]]
name = "notes"
transport = "stdio"
command = ["{python}", "{script}", "stdio"]
prefix = "notes_"

[[services]]
name = "persons"
prefix = "/api/v1/"
url = "http://127.0.0.1:1"
"""


def prepare(home: Any) -> None:
    """An upstream, a service, and somebody who may read the audit."""
    script = ROOT / "tests" / "servers" / "everything.py"
    home.configure(CONFIG.format(python=sys.executable, script=script))
    home.client("alice", "--role", "auditor")


async def test_every_route_is_described(home: Any) -> None:
    """Where this fails: put ``@described(Description(...))`` before the handler (gateway/description.py)."""
    config = read_config(home.config, dict(os.environ))
    async with open_gateway(config, lambda: config) as gateway:
        routes: Routes = gateway._server.request_handler.__self__._routes
        undescribed = [
            f"{method} {path}"
            for path, method, route in routes.items()
            if description_of(route.handler) is None
        ]
    assert undescribed == []


@pytest.fixture
def document(home: Any, caller: Callable[..., Any]) -> Any:
    answer = caller(home.serve()).ask("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return answer.json


def test_the_contracts_paths_are_there_and_the_services_are_not(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    assert {
        "/audit",
        "/auth/token",
        "/auth/refresh",
        "/auth/revoke",
        "/auth/introspect",
        "/mcp",
        "/mcp/{upstream}",
        "/health/live",
        "/health/ready",
        "/openapi.json",
        "/.well-known/jwks.json",
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-protected-resource/mcp",
    } <= document["paths"].keys()
    assert not [path for path in document["paths"] if path.startswith("/api/")]


def test_every_reference_leads_somewhere_and_every_name_in_a_path_is_a_parameter(document: Any) -> None:
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert operation["summary"].endswith(".")


def test_every_described_path_is_routed(home: Any, caller: Callable[..., Any], document: Any) -> None:
    alice = caller(home.served[0], home.folder / "clients" / "alice")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "head":
                continue
            answer = alice.ask(
                method.upper(), path.replace("{upstream}", "notes").replace("{", "").replace("}", "")
            )
            assert str(answer.status) in operation["responses"], (method, path, answer)
            reason = answer.json.get("reason") if answer.body.startswith(b"{") else None
            assert (answer.status, reason) != (404, "not_found"), (method, path)
            assert answer.status != 405, (method, path)


def test_what_the_admin_api_answers_is_as_described(
    home: Any, caller: Callable[..., Any], document: Any
) -> None:
    """No member is missing, and none is there that the document does not name."""
    home.cli("tenants", "add", "acme")
    home.cli("roles", "add", "extra", "--permission", "files:read")
    home.cli("api-keys", "add", "alice", "--name", "x")
    home.cli("invitations", "add")
    served = home.served[0]
    signed_in = {"username": "root", "password": ADMIN_PASSWORD}
    login = caller(served).ask(
        "POST", "/auth/login", json.dumps(signed_in), {"Content-Type": "application/json"}
    )
    root = caller(served, token=login.json["access_token"])
    schemas = document["components"]["schemas"]
    for noun in ("clients", "tenants", "roles", "tokens", "sessions", "invitations", "api-keys"):
        operation = document["paths"][f"/admin/api/{noun}"]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        page = schemas[schema["$ref"].rpartition("/")[2]]["properties"]
        answer = root.ask("GET", f"/admin/api/{noun}").json
        assert answer.keys() == page.keys(), noun
        member = noun.replace("-", "_")
        one = schemas[page[member]["items"]["$ref"].rpartition("/")[2]]
        assert answer[member], noun
        for each in answer[member]:
            assert each.keys() == one["properties"].keys() == set(one["required"]), noun


def test_the_documents_name_every_route(document: Any) -> None:
    """Where this fails: name the route in docs/http.md."""
    text = (ROOT / "docs" / "http.md").read_text()
    paths = {path.replace("/mcp/notes", "/mcp"): methods for path, methods in document["paths"].items()}
    named = [f"`{m.upper()} {path}`" for path, methods in paths.items() for m in methods if m != "head"]
    assert [route for route in named if route not in text] == []
