"""The limits of the door hold at the OAuth endpoints, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Answer, World

PASSWORD = "Correct-Horse-7"
LIMITED = (429, "temporarily_unavailable", "rate_limited")


async def test_one_client_gets_so_many_tokens_a_minute(world: World) -> None:
    world.limit(requests=3)
    for _ in range(3):
        assert (await world.get(cert="alice")).status == 200
    answer = await world.get(cert="alice")
    assert answer.error == LIMITED
    assert answer.headers["Retry-After"] == "20"
    assert (await world.password()).error == LIMITED, "whatever proves the client"
    assert (await world.get(cert="bob")).status == 200, "others are not concerned"
    assert [(entry.client_id, entry.target) for entry in await world.audited("rate_limited")] == [
        ("alice", "/auth/token")
    ] * 2
    world.clock.now += 20
    assert (await world.get(cert="alice")).status == 200


async def test_every_endpoint_counts_its_caller(world: World) -> None:
    body = (await world.password()).body
    refresh, token = {"refresh_token": body["refresh_token"]}, {"token": body["access_token"]}
    world.limit(requests=4)
    for path, form, options in (
        ("refresh", refresh, {}),
        ("token", {"grant_type": "refresh_token", **refresh}, {}),
        ("introspect", token, {"cert": "alice"}),
        ("introspect", token, {"bearer": body["access_token"]}),
    ):
        assert (await world.post(path, form=form, **options)).status == 200
    for path, form in (("refresh", refresh), ("introspect", token), ("revoke", token)):
        assert (await world.post(path, form=form, cert="alice")).error == LIMITED
    assert world.works(body["access_token"])


async def _wrong_password(world: World) -> Answer:
    return await world.post(form={"username": "alice", "password": "wrong"})


async def _unknown_certificate(world: World) -> Answer:
    return await world.get(cert="stranger")


async def _wrong_refresh_token(world: World) -> Answer:
    return await world.post("refresh", form={"refresh_token": "x.y.z"})


async def _wrong_bearer_token(world: World) -> Answer:
    return await world.post("introspect", form={"token": "x"}, bearer="x.y.z")


@pytest.mark.parametrize(
    "fail", [_wrong_password, _unknown_certificate, _wrong_refresh_token, _wrong_bearer_token]
)
async def test_whoever_gets_too_much_wrong_is_not_even_looked_at(world: World, fail: Any) -> None:
    world.limit(failures=2)
    for _ in range(2):
        assert (await fail(world)).status in {400, 401}
    compared = world.hasher.compared
    for answer in [await fail(world)] + ([] if fail is _unknown_certificate else [await world.password()]):
        assert answer.error == LIMITED
        assert answer.headers["Retry-After"] == "30"
    assert world.hasher.compared == compared
    assert (await world.get(cert="bob")).status == 200, (
        "a certificate's holder does not pay for the neighbours"
    )
    world.clock.now += 30
    assert (await fail(world)).status in {400, 401}
    world.clock.now += 30
    assert (await world.password()).status == 200


async def test_what_is_no_refusal_of_credentials_does_not_count_as_a_failure(world: World) -> None:
    world.limit(failures=1)
    for form in ({"scope": "no:scope"}, {"resource": "https://other.example"}, {"grant_type": "implicit"}):
        assert (await world.post(form=form, cert="alice")).status == 400
    assert (await world.get(cert="alice")).status == 200
