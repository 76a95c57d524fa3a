"""Who is refused a token, and in which form OAuth says so."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.api.oauth import oauth_error
from gateway.model import Deny, Reason

if TYPE_CHECKING:
    from tests.api.conftest import World

CREATED = "2026-01-01T00:00:00.000Z"
URL = "https://gate.example"
PASSWORD = "Correct-Horse-7"


# Issuing: who is refused


async def test_wrong_credentials_in_each_form(world: World) -> None:
    wrong = await world.post(form={"username": "alice", "password": "wrong"})
    assert wrong.error == (400, "invalid_grant", "invalid_credentials")
    wrong = await world.post(form={"client_id": "alice", "client_secret": "wrong"})
    assert wrong.error == (401, "invalid_client", "invalid_credentials")
    wrong = await world.get(basic=("alice", "wrong"))
    assert wrong.error == (401, "invalid_client", "invalid_credentials")
    assert wrong.challenges.startswith("Basic realm=")


async def test_unknown_and_disabled_names_cost_a_hash_and_get_the_same_answer(world: World) -> None:
    await world.put("off", disabled_at=CREATED)
    await world.put("machine", password=None)
    answers = []
    for name in ("alice", "nobody", "off", "machine"):
        before = world.hasher.compared
        password = "wrong" if name == "alice" else PASSWORD
        answer = await world.post(form={"username": name, "password": password})
        assert world.hasher.compared == before + 1
        answers.append((answer.error, answer.body["error_description"]))
    assert len(set(answers)) == 1


async def test_no_credentials_at_all(world: World) -> None:
    for answer in (
        await world.get(),
        await world.post(),
        await world.post(form={"grant_type": "client_credentials"}),
    ):
        assert answer.error == (401, "invalid_client", "authentication_required")


async def test_a_lock_out_and_the_login_limit_say_when_to_come_back(world: World) -> None:
    for _ in range(3):
        await world.get(basic=("alice", "wrong"))
    answer = await world.get(basic=("alice", PASSWORD))
    assert answer.error == (429, "temporarily_unavailable", "rate_limited")
    assert answer.headers["Retry-After"] == "30"
    for number in range(26):
        await world.get(basic=(f"name{number}", "wrong"))
    compared = world.hasher.compared
    answer = await world.password("bob")
    assert answer.error == (429, "temporarily_unavailable", "rate_limited")
    assert answer.headers["Retry-After"] == "2"
    assert world.hasher.compared == compared


async def test_a_password_over_another_clients_certificate_is_refused_unhashed(world: World) -> None:
    before = world.hasher.compared
    for options in (
        {"basic": ("alice", PASSWORD)},
        {"form": {"username": "alice", "password": PASSWORD}},
        {"form": {"client_id": "alice", "client_secret": PASSWORD}},
    ):
        answer = await world.post(cert="bob", **options)
        assert answer.error == (401, "invalid_client", "certificate_mismatch")
    assert world.hasher.compared == before


async def test_a_certificate_that_maps_to_nobody(world: World) -> None:
    for basic in (None, ("alice", PASSWORD)):
        answer = await world.get(cert="stranger", basic=basic)
        assert answer.error == (401, "invalid_client", "certificate_unmapped")


async def test_the_certificate_of_a_disabled_client_and_one_that_expired(world: World) -> None:
    await world.change("alice", disabled_at=CREATED)
    assert (await world.get(cert="alice")).error == (401, "invalid_client", "client_disabled")
    world.clock.now += 200_000
    answer = await world.get(cert="bob")
    assert answer.error == (401, "invalid_client", "certificate_expired")
    assert answer.headers["Connection"] == "close"


async def test_a_client_that_requires_its_certificate(world: World) -> None:
    await world.change("alice", require_certificate=True)
    assert (await world.password(cert="alice")).status == 200
    assert (await world.get(cert="alice")).status == 200


@pytest.mark.parametrize("form", [("username", "password"), ("client_id", "client_secret"), None])
async def test_without_its_certificate_nobody_learns_whether_a_password_is_right(
    world: World, form: tuple[str, str] | None
) -> None:
    await world.change("alice", require_certificate=True)
    answers = []
    for password in (
        PASSWORD,
        "wrong",
        PASSWORD,
        PASSWORD,
    ):  # the right one does not begin the count anew, either
        if form is None:
            answer = await world.get(basic=("alice", password))
        else:
            answer = await world.post(form=dict(zip(form, ("alice", password), strict=True)))
        answers.append((answer.error, answer.body["error_description"], answer.challenges))
    right, wrong, _, locked = answers
    assert right == wrong
    assert right[0][2] == "invalid_credentials"
    assert locked[0] == (429, "temporarily_unavailable", "rate_limited")
    entries = await world.audited("auth_failed")
    assert [entry.reason for entry in entries] == [
        "certificate_required",
        "invalid_credentials",
        "certificate_required",
    ]


@pytest.mark.parametrize(
    "field", ["Bearer x.y.z", "Digest x", "", "Basic", "Basic !", "Basic YWxpY2U=", "Basic gA=="]
)
async def test_a_header_that_cannot_be_used_never_falls_back(world: World, field: str) -> None:
    answer = await world.get(headers=[("Authorization", field)], cert="alice")
    assert answer.status == 401
    assert answer.body["error"] == "invalid_client"


async def test_an_unknown_api_key_is_refused_whatever_comes_with_it(world: World) -> None:
    answer = await world.get(headers=[("X-API-Key", "k")], cert="alice")
    assert answer.error == (401, "invalid_client", "api_key_unknown")


async def test_two_credentials_of_any_kinds(world: World) -> None:
    basic = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
    both = [("Authorization", basic), ("Authorization", basic)]
    in_body = {"username": "alice", "password": PASSWORD}
    as_client = {"client_id": "alice", "client_secret": PASSWORD}
    for answer in (
        await world.get(headers=both),
        await world.get(headers=[both[0], ("X-API-Key", "k")]),
        await world.post(form=in_body, headers=both[:1]),
        await world.post(form=as_client, headers=both[:1]),
        await world.post(form=in_body | as_client),
        await world.post(form=in_body, bearer="x.y.z"),
    ):
        assert answer.error == (400, "invalid_request", "ambiguous_credentials")
    assert world.hasher.compared == 0


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
        ({"grant_type": "implicit", "username": "alice", "password": PASSWORD}, "unsupported_grant_type"),
        ({"grant_type": "password"}, "invalid_request"),
        (
            {"grant_type": "password", "client_id": "alice", "client_secret": PASSWORD},
            "invalid_request",
        ),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"username": "alice"}, "invalid_request"),
        ({"username": "alice", "password": ""}, "invalid_request"),
        ({"password": PASSWORD}, "invalid_request"),
        ({"client_secret": PASSWORD}, "invalid_request"),
        ({"client_id": "bob", "username": "alice", "password": PASSWORD}, "invalid_request"),
        (
            {"grant_type": "client_credentials", "username": "alice", "password": PASSWORD},
            "invalid_request",
        ),
        ([("username", "alice"), ("username", "bob"), ("password", PASSWORD)], "invalid_request"),
        ([("password", PASSWORD), ("password", PASSWORD), ("username", "alice")], "invalid_request"),
        (b"username", "invalid_request"),
        (b"username=%ff&password=x", "invalid_request"),
        (b"\xff\xfe", "invalid_request"),
        (b"&".join(b"a%d=1" % n for n in range(100)), "invalid_request"),
    ],
)
async def test_forms_that_are_refused(world: World, form: Any, error: str) -> None:
    headers = [("Content-Type", "application/x-www-form-urlencoded")] if isinstance(form, bytes) else None
    answer = await world.post(form=form, headers=headers, cert="alice")
    assert answer.error[:2] == (400, error)
    assert list(world.stores.tokens) == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b'{"username": "alice", "username": "bob", "password": "x"}',
        b'{"username": 1, "password": "x"}',
        b'{"username": ["alice"], "password": "x"}',
        b'{"username": "\\ud800", "password": "x"}',
        b'{"resource": [1]}',
        b'{"x": NaN}',
        b'{"a":' * 5000,
        b'{"scope": "' + b"a" * 20_000 + b'"}',
    ],
)
async def test_json_that_is_refused(world: World, body: bytes) -> None:
    headers = [("Content-Type", "application/json; charset=utf-8")]
    answer = await world.post(form=body, headers=headers, cert="alice")
    assert answer.error[:2] == (400, "invalid_request")
    assert list(world.stores.tokens) == []


async def test_the_password_grant_is_not_a_clients_authentication(world: World) -> None:
    answer = await world.post(form={"grant_type": "password"}, basic=("alice", PASSWORD))
    assert answer.error == (400, "invalid_request", "bad_request")
    assert world.hasher.compared == 0


async def test_unknown_and_empty_parameters_are_ignored(world: World) -> None:
    form = {"username": "alice", "password": PASSWORD, "scope": "", "audience": "x"}
    assert (await world.post(form=form)).status == 200
    body = {"username": "alice", "password": PASSWORD, "scope": None, "more": {"a": [1.5]}}
    assert (await world.ask("POST", "/auth/token", json=body)).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x", "application/xml"])
async def test_other_content_types(world: World, content_type: str) -> None:
    answer = await world.post(form=b"x=y", headers=[("Content-Type", content_type)], cert="alice")
    assert answer.error == (415, "invalid_request", "content_type")
    headers = [("Content-Type", "application/json; charset=utf-16")]
    assert (await world.post(form=b"{}", headers=headers, cert="alice")).status == 415


async def test_a_body_that_is_too_large(world: World) -> None:
    answer = await world.post(form={"scope": "x" * 100_000}, cert="alice")
    assert answer.error == (413, "invalid_request", "body_too_large")


async def test_no_credentials_in_the_url(world: World) -> None:
    for query in (f"?username=alice&password={PASSWORD}", "?access_token=x", "?scope=a:b&scope=c:d"):
        answer = await world.get(query, cert="alice")
        assert answer.error[:2] == (400, "invalid_request")
    answer = await world.ask("POST", "/auth/token?client_secret=x", cert="alice")
    assert answer.error[:2] == (400, "invalid_request")


# The table


OAUTH_ERRORS = {
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "unsupported_token_type",
    "invalid_token",
    "temporarily_unavailable",
    "server_error",
}


@pytest.mark.parametrize("invalid_grant", [True, False])
@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_an_oauth_error(reason: Reason, invalid_grant: bool) -> None:
    deny = Deny(reason, 'Say "what" to do é \\ next.', permissions=("a:b",))
    response = oauth_error(deny, "req-1", "https://gate.example/metadata", invalid_grant=invalid_grant)
    body = json.loads(response.text or "")
    assert body["error"] in OAUTH_ERRORS
    assert body["error_description"] == "Say 'what' to do ' ' next."
    assert body["reason"] == reason
    assert 400 <= response.status < 600
    assert (response.status in {401, 403}) == ("WWW-Authenticate" in response.headers)
