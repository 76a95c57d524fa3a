"""What becomes of a token: refreshed, revoked, looked at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import jwt
import pytest

if TYPE_CHECKING:
    from persistence.records import TokenRecord
    from tests.api.conftest import World

CREATED = "2026-01-01T00:00:00.000Z"
URL = "https://gate.example"
PASSWORD = "Correct-Horse-7"


# Issuing


@pytest.mark.parametrize("what", ["password", "second factor"])
async def test_what_was_changed_while_the_token_was_being_stored_ends_it(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A reset goes through the tokens that are there: one that comes just after it must not outlive it."""
    put, issued = world.stores.tokens.put, []

    async def changed_meanwhile(*records: TokenRecord) -> None:
        await put(*records)
        if issued:
            return
        issued.extend(records)
        if what == "password":
            await world.put("alice", password="Another-Horse-8")
        else:
            monkeypatch.setattr(world.factors, "enabled", lambda client_id: client_id == "alice")

    monkeypatch.setattr(world.stores.tokens, "put", changed_meanwhile)
    answer = await world.password()
    assert answer.status in {400, 401}, answer.body
    assert answer.body["reason"] == "invalid_credentials"
    assert len(issued) == 2
    assert not [each for each in world.stores.tokens.of_client("alice") if each.revoked_at is None]


# Refreshing


async def test_a_refresh_token_gives_a_new_access_token_and_the_old_one_lives_on(world: World) -> None:
    issued_at = int(world.clock.now)
    first = (await world.password()).body
    world.clock.now += 1800
    one = await world.post("refresh", form={"refresh_token": first["refresh_token"]})
    two = await world.ask("POST", "/auth/refresh", json={"refresh_token": one.body["refresh_token"]})
    three = await world.post(form={"grant_type": "refresh_token", "refresh_token": two.body["refresh_token"]})
    for answer in (one, two, three):
        assert answer.claims["exp"] == issued_at + 1800 + 3600
        assert answer.claims["auth_time"] == issued_at
        assert world.works(answer.body["access_token"])
    assert world.works(first["access_token"])
    world.clock.now += 1800
    assert not world.works(first["access_token"])


async def test_the_scope_of_a_refreshed_token_is_at_most_that_of_the_first(world: World) -> None:
    form = {"username": "alice", "password": PASSWORD, "scope": "reports:read reports:write"}
    refresh = {"refresh_token": (await world.post(form=form)).body["refresh_token"]}
    narrower = await world.post("refresh", form=refresh | {"scope": "reports:read"})
    assert narrower.body["scope"] == "reports:read"
    refresh = {"refresh_token": narrower.body["refresh_token"]}
    again = await world.post("refresh", form=refresh)
    assert again.body["scope"] == "reports:read reports:write", "RFC 6749 section 6"
    refresh = {"refresh_token": again.body["refresh_token"]}
    wider = await world.post("refresh", form=refresh | {"scope": "files:read"})
    assert wider.error == (400, "invalid_scope", "invalid_scope")


async def test_a_refreshed_token_says_what_its_client_may_do_by_now(world: World) -> None:
    form = {"username": "alice", "password": PASSWORD, "scope": "reports:read files:read"}
    refresh = {"refresh_token": (await world.post(form=form)).body["refresh_token"]}
    await world.change("alice", roles=(), permissions=("reports:*",))
    assert (await world.post("refresh", form=refresh)).body["scope"] == "reports:read"


async def test_refresh_tokens_that_are_no_good(world: World) -> None:
    body = (await world.password()).body
    for token, reason in (
        ("x.y.z", "token_malformed"),
        (body["access_token"], "token_type"),
        (body["refresh_token"][:-2] + "AA", "token_signature"),
    ):
        answer = await world.post("refresh", form={"refresh_token": token})
        assert answer.error == (400, "invalid_grant", reason)
    world.clock.now += 7 * 86400
    answer = await world.post("refresh", form={"refresh_token": body["refresh_token"]})
    assert answer.error == (400, "invalid_grant", "token_expired")
    assert (await world.post("refresh", form={})).error[:2] == (400, "invalid_request")
    answer = await world.post("refresh", form={"grant_type": "password"})
    assert answer.error[:2] == (400, "unsupported_grant_type")


async def test_a_refresh_token_of_a_disabled_client(world: World) -> None:
    refresh = {"refresh_token": (await world.password()).body["refresh_token"]}
    await world.change("alice", disabled_at=CREATED)
    assert (await world.post("refresh", form=refresh)).error == (400, "invalid_grant", "client_disabled")


async def test_a_refresh_token_is_bound_to_its_client(world: World) -> None:
    refresh = {"refresh_token": (await world.password()).body["refresh_token"]}
    bobs = (await world.password("bob")).body["access_token"]
    for options in ({"cert": "bob"}, {"basic": ("bob", PASSWORD)}, {"bearer": bobs}):
        answer = await world.post("refresh", form=refresh, **options)
        assert answer.error == (400, "invalid_grant", "invalid_grant"), options
    answer = await world.post("refresh", form=refresh | {"client_id": "bob"})
    assert answer.error == (400, "invalid_grant", "invalid_grant")
    answer = await world.post("refresh", form=refresh, cert="stranger")
    assert answer.error == (401, "invalid_client", "certificate_unmapped")


async def test_other_credentials_beside_a_refresh_token_must_be_good(world: World) -> None:
    body = (await world.password()).body
    refresh = {"refresh_token": body["refresh_token"]}
    for options in ({"bearer": body["access_token"]}, {"basic": ("alice", PASSWORD)}, {"cert": "alice"}):
        answer = await world.post("refresh", form=refresh, **options)
        assert answer.status == 200
        refresh = {"refresh_token": answer.body["refresh_token"]}
    answer = await world.post("refresh", form=refresh, bearer="x.y.z")
    assert answer.error == (401, "invalid_token", "token_malformed")
    assert 'Bearer realm="ostiary", error="invalid_token"' in answer.challenges
    answer = await world.post("refresh", form=refresh, basic=("alice", "wrong"))
    assert answer.error == (401, "invalid_client", "invalid_credentials")


async def test_a_refresh_token_issued_with_a_certificate_needs_a_current_one(world: World) -> None:
    refresh = {"refresh_token": (await world.password(cert="alice")).body["refresh_token"]}
    answer = await world.post("refresh", form=refresh)
    assert answer.error == (401, "invalid_client", "certificate_required")
    renewed = await world.post("refresh", form=refresh, cert="alice/renewed")
    assert renewed.claims["cnf"] == {"x5t#S256": world.thumbprint("alice/renewed")}
    assert world.works(renewed.body["access_token"], "alice/renewed")
    assert not world.works(renewed.body["access_token"], "alice")


async def test_a_refresh_token_issued_without_a_certificate_binds_to_one_that_is_there(world: World) -> None:
    refresh = {"refresh_token": (await world.password()).body["refresh_token"]}
    answer = await world.post("refresh", form=refresh, cert="alice")
    assert answer.claims["cnf"] == {"x5t#S256": world.thumbprint("alice")}
    await world.change("alice", require_certificate=True)
    answer = await world.post("refresh", form=refresh)
    assert answer.error == (401, "invalid_client", "certificate_required")


# Revoking


async def test_revoking_an_access_token_ends_that_one_alone(world: World) -> None:
    body = (await world.password()).body
    form = {"token": body["access_token"], "token_type_hint": "refresh_token"}
    answer = await world.post("revoke", form=form, basic=("alice", PASSWORD))
    assert (answer.status, answer.body) == (200, {})
    assert not world.works(body["access_token"])
    assert (await world.post("refresh", form={"refresh_token": body["refresh_token"]})).status == 200


async def test_revoking_a_refresh_token_ends_its_family(world: World) -> None:
    body, other = (await world.password()).body, (await world.password()).body
    refresh = {"refresh_token": body["refresh_token"]}
    later = (await world.post("refresh", form=refresh)).body
    answer = await world.post("revoke", form={"token": body["refresh_token"]}, bearer=later["access_token"])
    assert answer.status == 200
    assert not world.works(body["access_token"])
    assert not world.works(later["access_token"])
    assert world.works(other["access_token"])
    assert (await world.post("refresh", form=refresh)).error == (400, "invalid_grant", "token_revoked")


@pytest.mark.parametrize("form", [{"token": "x"}, {"token": "x.y.z"}, {"token": "é"}])
async def test_revoking_what_is_unknown_is_done_already(world: World, form: dict[str, str]) -> None:
    assert (await world.post("revoke", form=form, cert="alice")).status == 200


async def test_revoking_twice_is_fine_and_audited_once(world: World) -> None:
    token = (await world.get(cert="alice")).body["access_token"]
    for _ in range(2):
        assert (await world.post("revoke", form={"token": token}, cert="alice")).status == 200
    assert len(await world.audited("token_revoked")) == 1


async def test_someone_elses_token_is_not_revoked(world: World) -> None:
    body = (await world.password()).body
    jti = jwt.decode(body["access_token"], options={"verify_signature": False})["jti"]
    for form in ({"token": body["access_token"]}, {"token_id": jti}, {"token_id": "unknown"}):
        answer = await world.post("revoke", form=form, cert="bob")
        assert answer.error == (403, "unauthorized_client", "permission_denied")
        assert 'error="insufficient_scope", error_description="' in answer.challenges
        assert 'scope="tokens:write", resource_metadata="' in answer.challenges
    assert world.works(body["access_token"])


async def test_whoever_may_write_tokens_revokes_those_of_others(world: World) -> None:
    one, other = (await world.password()).body, (await world.password()).body
    assert (await world.post("revoke", form={"token": one["access_token"]}, cert="root")).status == 200
    jti = jwt.decode(other["access_token"], options={"verify_signature": False})["jti"]
    answer = await world.ask("POST", "/auth/revoke", json={"token_id": jti}, cert="root")
    assert answer.status == 200
    assert not world.works(one["access_token"])
    assert not world.works(other["access_token"])
    assert (await world.post("revoke", form={"token_id": "unknown"}, cert="root")).status == 200


async def test_an_administrator_of_one_tenant_has_no_say_in_another(world: World) -> None:
    await world.put("eve", tenant_id="other", roles=("admin",))
    await world.put("owner", roles=("owner",))
    token = (await world.password("eve")).body["access_token"]
    answer = await world.post("revoke", form={"token": token}, cert="root")
    assert answer.error == (403, "unauthorized_client", "permission_denied")
    assert (await world.post("introspect", form={"token": token}, cert="root")).body == {"active": False}
    assert (await world.post("introspect", form={"token": token}, cert="owner")).body["active"] is True
    assert (await world.post("revoke", form={"token": token}, cert="owner")).status == 200
    assert not world.works(token)


@pytest.mark.parametrize("path", ["revoke", "introspect"])
async def test_revoking_and_looking_need_a_known_caller(world: World, path: str) -> None:
    token = (await world.password()).body["access_token"]
    answer = await world.post(path, form={"token": token})
    assert answer.error == (401, "invalid_client", "authentication_required")
    assert "Basic" in answer.challenges
    assert "Bearer" in answer.challenges
    answer = await world.post(path, form={"token": token}, cert="stranger")
    assert answer.error == (401, "invalid_client", "certificate_unmapped")
    answer = await world.post(path, form={"token": token}, bearer="x.y.z")
    assert answer.error == (401, "invalid_token", "token_malformed")
    answer = await world.post(path, form={}, cert="alice")
    assert answer.error[:2] == (400, "invalid_request")
    assert world.works(token)


async def test_a_family_revoked_in_the_middle_of_a_refresh_leaves_nothing_alive(world: World) -> None:
    body = (await world.password()).body
    refreshing = [world.post("refresh", form={"refresh_token": body["refresh_token"]}) for _ in range(8)]
    revoking = world.post("revoke", form={"token": body["refresh_token"]}, cert="alice")
    *answers, revoked = await asyncio.gather(*refreshing, revoking)
    assert revoked.status == 200
    for answer in answers:
        assert answer.status != 200 or not world.works(answer.body["access_token"])
    assert all(record.revoked_at for record in world.stores.tokens)


# Looking


async def test_introspection_of_ones_own_tokens(world: World) -> None:
    body = (await world.password(cert="alice")).body
    answer = await world.post("introspect", form={"token": body["access_token"]}, cert="alice")
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert answer.body == {
        "active": True,
        "client_id": "alice",
        "username": "alice",
        "user_id": "id-alice",
        "tenant_id": "default",
        "sub": "alice",
        "scope": "files:read reports:*",
        "token_type": "Bearer",
        "cnf": {"x5t#S256": world.thumbprint("alice")},
        **{name: claims[name] for name in ("iss", "aud", "jti", "iat", "nbf", "exp", "auth_time")},
    }
    answer = await world.post("introspect", form={"token": body["refresh_token"]}, cert="alice")
    assert answer.body["active"] is True
    assert (answer.body["token_type"], answer.body["aud"]) == ("refresh_token", URL)
    assert "cnf" not in answer.body


async def test_introspection_says_no_more_than_inactive(world: World) -> None:
    token = (await world.get(cert="alice")).body["access_token"]
    inactive = {"active": False}
    assert (await world.post("introspect", form={"token": token}, cert="bob")).body == inactive
    assert (await world.post("introspect", form={"token": "x"}, cert="alice")).body == inactive
    assert (await world.post("introspect", form={"token": token}, cert="root")).body["active"] is True
    await world.post("revoke", form={"token": token}, cert="alice")
    assert (await world.post("introspect", form={"token": token}, cert="alice")).body == inactive
