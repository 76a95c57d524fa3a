"""Who gets a token at /auth/token, for what, and as what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import World

CREATED = "2026-01-01T00:00:00.000Z"
URL = "https://gate.example"
PASSWORD = "Correct-Horse-7"


# Issuing: who gets what


async def test_get_with_basic(world: World) -> None:
    answer = await world.get(basic=("alice", PASSWORD))
    assert answer.status == 200
    assert answer.body.keys() == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert (answer.body["token_type"], answer.body["expires_in"]) == ("Bearer", 3600)
    assert answer.body["scope"] == "files:read reports:*"
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert answer.claims["client_id"] == answer.claims["username"] == "alice"
    assert "cnf" not in answer.claims
    assert world.works(answer.body["access_token"])


async def test_get_with_a_certificate_alone_gives_a_bound_token_and_no_refresh_token(world: World) -> None:
    answer = await world.get(cert="alice")
    assert "refresh_token" not in answer.body
    assert answer.claims["cnf"] == {"x5t#S256": world.thumbprint("alice")}
    token = answer.body["access_token"]
    assert world.works(token, "alice")
    assert not world.works(token)
    assert not world.works(token, "alice/2")
    assert not world.works(token, "bob")


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("as_json", [True, False])
async def test_the_password_grant(world: World, explicit: bool, as_json: bool) -> None:
    fields = {"username": "alice", "password": PASSWORD} | ({"grant_type": "password"} if explicit else {})
    options: dict[str, Any] = {"json": fields} if as_json else {"data": fields}
    answer = await world.ask("POST", "/auth/token", **options)
    assert "refresh_token" in answer.body
    assert answer.claims["sub"] == "alice"


@pytest.mark.parametrize("explicit", [True, False])
async def test_client_secret_post(world: World, explicit: bool) -> None:
    fields = {"client_id": "alice", "client_secret": PASSWORD}
    answer = await world.post(form=fields | ({"grant_type": "client_credentials"} if explicit else {}))
    assert "refresh_token" not in answer.body
    assert answer.claims["sub"] == "alice"


async def test_client_credentials_by_basic_and_by_certificate(world: World) -> None:
    form = {"grant_type": "client_credentials"}
    for options in ({"basic": ("alice", PASSWORD)}, {"cert": "alice"}):
        answer = await world.post(form=form, **options)
        assert "refresh_token" not in answer.body
        assert answer.claims["sub"] == "alice"


async def test_post_with_nothing_in_its_body(world: World) -> None:
    assert (await world.post(cert="alice")).claims["sub"] == "alice"
    answer = await world.post(basic=("alice", PASSWORD))
    assert answer.claims["sub"] == "alice"
    assert "refresh_token" not in answer.body, "it is a client that authenticates, no password grant"


async def test_a_password_over_ones_own_certificate_is_bound_to_it(world: World) -> None:
    answer = await world.password(cert="alice")
    assert answer.claims["cnf"] == {"x5t#S256": world.thumbprint("alice")}
    assert "refresh_token" in answer.body


async def test_a_certificate_client_may_name_itself(world: World) -> None:
    form = {"grant_type": "client_credentials", "client_id": "alice"}
    assert (await world.post(form=form, cert="alice")).status == 200
    answer = await world.post(form=form, cert="bob")
    assert answer.error == (401, "invalid_client", "certificate_mismatch")


@pytest.mark.parametrize(
    ("name", "sent"),
    [("alice", "p%40ss Word+1"), ("alice", "p%2540ss+Word%2B1"), ("%61lice", "p%2540ss+Word%2B1")],
)
async def test_basic_is_understood_form_encoded_and_plain(world: World, name: str, sent: str) -> None:
    await world.put("alice", password="p%40ss Word+1")
    assert (await world.get(basic=(name, sent))).status == 200


async def test_the_password_may_have_colons_and_letters_of_any_alphabet(world: World) -> None:
    await world.put("alice", password="Grüße:Ähre:1")
    assert (await world.get(basic=("alice", "Grüße:Ähre:1"))).status == 200


async def test_head_never_issues_a_token(world: World) -> None:
    answer = await world.ask("HEAD", "/auth/token", cert="alice")
    assert answer.status == 405
    assert list(world.stores.tokens) == []


# Scope and resource


async def test_a_scope_narrows_the_token(world: World) -> None:
    answer = await world.post(form={"scope": "reports:read files:read reports:read"}, cert="alice")
    assert answer.body["scope"] == answer.claims["scope"] == "files:read reports:read"
    record = world.stores.tokens.get(answer.claims["jti"])
    assert record is not None
    assert record.scope == "reports:read files:read"
    assert (await world.get("?scope=files:read", cert="alice")).body["scope"] == "files:read"


@pytest.mark.parametrize("scope", ["files:write", "*:*", "files:read admin:all", "nonsense", "a:b  c:d"])
async def test_a_scope_beyond_ones_own_is_refused(world: World, scope: str) -> None:
    answer = await world.post(form={"scope": scope}, cert="alice")
    assert answer.error == (400, "invalid_scope", "invalid_scope")
    assert list(world.stores.tokens) == []


@pytest.mark.parametrize("resource", [f"{URL}/mcp", f"{URL}/mcp/files", URL, f"{URL}/"])
async def test_a_resource_that_is_ours(world: World, resource: str) -> None:
    assert (await world.post(form={"resource": resource}, cert="alice")).claims["aud"] == f"{URL}/mcp"


@pytest.mark.parametrize(
    "resource",
    [
        "https://other.example/mcp",
        f"{URL}/mcpx",
        f"{URL}.evil.example/mcp",
        f"{URL}/mcp#x",
        f"{URL}/mcp/?x",
        f"{URL}/mcp/",
        f"{URL}/mcp/other",
        f"{URL}/mcp/files/",
        f"{URL}/mcp/./files",
        f"{URL}/mcp/../files",
        f"{URL}/mcp/%66iles",
        f"{URL}//mcp",
        f"{URL}:443/mcp",
        URL.upper(),
        "mcp",
    ],
)
async def test_a_resource_that_is_not(world: World, resource: str) -> None:
    answer = await world.post(form={"resource": resource}, cert="alice")
    assert answer.error == (400, "invalid_target", "invalid_target")


async def test_several_resources_must_all_be_ours(world: World) -> None:
    ours, other = ("resource", f"{URL}/mcp"), ("resource", "https://other.example")
    assert (await world.post(form=[ours, ("resource", f"{URL}/mcp/files")], cert="alice")).status == 200
    answer = await world.post(form=[ours, other], cert="alice")
    assert answer.error == (400, "invalid_target", "invalid_target")
