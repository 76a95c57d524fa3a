"""Tokens against the real store: what is in them, what is refused and why, and what ends them."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.values import Algorithm, SigningKey, TokenSettings
from gateway.identity.keyring import MAX_TOKEN, Keyring
from gateway.identity.signing_keys import make
from gateway.identity.tokens import Grant, Issued, Tokens, VerifiedToken
from gateway.model import Deny, Reason
from persistence.json_store import JsonStores
from persistence.records import ClientRecord, TokenKind

SECRET = "Zq8!vT2#mN5$kL9%wR4^xB7&yH1*pJ6("
ISSUER = "https://gate.example"
AUDIENCE = "https://gate.example/mcp"
START = 1_800_000_000.0
CREATED = "2026-01-01T00:00:00.000Z"
THUMBPRINT = "A" * 43


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, stores: JsonStores, clock: Clock, *, leeway: float = 0.0) -> None:
        self.stores = stores
        self.clock = clock
        self.settings = TokenSettings(secret=SECRET, issuer=ISSUER, audience=AUDIENCE, leeway=leeway)
        self.keyring = Keyring(self.settings)
        self.tokens = Tokens(self.settings, self.keyring, stores.tokens, stores.clients, now=clock)

    def client(self, name: str = "alice") -> ClientRecord:
        record = self.stores.clients.get(name)
        assert record is not None
        return record

    async def change(self, **changes: Any) -> None:
        await self.stores.clients.put(msgspec.structs.replace(self.client(), **changes))

    async def issue(self, *, refresh: bool = False, **fields: Any) -> Issued:
        grant = Grant(
            **{
                "client": self.client(),
                "scope": "",
                "permissions": "files:read",
                "auth_time": int(self.clock.now),
                **fields,
            }
        )
        issued = await self.tokens.issue(grant, with_refresh=refresh)
        assert isinstance(issued, Issued)
        return issued

    def verify(self, token: str, kind: TokenKind = TokenKind.ACCESS) -> VerifiedToken | Reason:
        verified = self.tokens.verify(token, kind)
        return verified.reason if isinstance(verified, Deny) else verified[0]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    stores = await JsonStores.open(tmp_path / "persistence", now=clock)
    await stores.clients.put(
        ClientRecord(
            client_id="alice",
            username="alice",
            user_id="id-alice",
            roles=("analyst",),
            email="alice@example.org",
            created_at=CREATED,
            updated_at=CREATED,
        )
    )
    yield World(stores, clock)
    await stores.close()


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: bytes | dict[str, Any], claims: bytes | dict[str, Any], secret: str = SECRET) -> str:
    """A JWS made by hand, so that it can be anything."""
    parts = [
        encoded(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, claims)
    ]
    text = ".".join(parts)
    return f"{text}.{encoded(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"


def header_of(token: str) -> dict[str, Any]:
    return jwt.get_unverified_header(token)


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


# What is in them


async def test_an_access_token_has_the_claims_and_the_header_of_rfc_9068(world: World) -> None:
    issued = await world.issue(thumbprint=THUMBPRINT)
    header = header_of(issued.access_token)
    assert header.keys() == {"alg", "kid", "typ"}
    assert (header["alg"], header["typ"]) == ("HS256", "at+jwt")
    assert claims_of(issued.access_token) == {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "client_id": "alice",
        "username": "alice",
        "user_id": "id-alice",
        "tenant_id": "default",
        "roles": ["analyst"],
        "scope": "files:read",
        "jti": issued.token_id,
        "type": "access",
        "iat": int(START),
        "nbf": int(START),
        "exp": int(START) + 3600,
        "auth_time": int(START),
        "email": "alice@example.org",
        "email_verified": False,
        "cnf": {"x5t#S256": THUMBPRINT},
    }
    assert issued.expires_in == 3600


async def test_whoever_has_the_secret_can_verify_it(world: World) -> None:
    world.clock.now = 1_000_000_000.0
    issued = await world.issue()
    claims = jwt.decode(
        issued.access_token,
        SECRET,
        algorithms=["HS256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_exp": False},
    )
    assert claims["client_id"] == "alice"


async def test_an_unbound_token_has_no_cnf_and_an_account_without_email_no_email(world: World) -> None:
    await world.change(email=None)
    claims = claims_of((await world.issue()).access_token)
    assert not {"cnf", "email", "email_verified"} & claims.keys()


async def test_it_is_stored_before_it_is_handed_out_and_never_itself(world: World, tmp_path: Path) -> None:
    issued = await world.issue(scope="files:read", thumbprint=THUMBPRINT)
    record = world.stores.tokens.get(issued.token_id)
    assert record is not None
    assert (record.client_id, record.tenant_id, record.kind) == ("alice", "default", TokenKind.ACCESS)
    assert (record.exp, record.created_at) == (int(START) + 3600, "2027-01-15T08:00:00.000Z")
    assert (record.scope, record.certificate_thumbprint) == ("files:read", THUMBPRINT)
    assert record.family_id is None
    signature = issued.access_token.rpartition(".")[2].encode()
    await world.stores.close()
    for file in (tmp_path / "persistence").rglob("*"):
        assert file.is_dir() or signature not in file.read_bytes()


async def test_a_refresh_token_shares_its_family_with_what_came_with_it(world: World) -> None:
    issued = await world.issue(refresh=True)
    assert issued.refresh_token is not None
    assert header_of(issued.refresh_token)["typ"] == "rt+jwt"
    claims = claims_of(issued.refresh_token)
    assert (claims["type"], claims["aud"], claims["exp"]) == ("refresh", ISSUER, int(START) + 7 * 86400)
    refresh = world.verify(issued.refresh_token, TokenKind.REFRESH)
    assert isinstance(refresh, VerifiedToken)
    family = world.stores.tokens.of_family(refresh.family_id or "")
    assert {record.token_id for record in family} == {issued.token_id, refresh.token_id}


async def test_token_ids_are_unique_and_fit_on_a_command_line(world: World) -> None:
    ids = {(await world.issue()).token_id for _ in range(50)}
    assert len(ids) == 50
    assert all(len(token_id) == 32 and token_id.isalnum() for token_id in ids)


async def test_a_token_that_would_not_fit_into_a_header_is_not_issued(world: World) -> None:
    grant = Grant(client=world.client(), scope="", permissions="x:y " * 1600, auth_time=0)
    refused = await world.tokens.issue(grant, with_refresh=False)
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.INVALID_SCOPE
    assert list(world.stores.tokens) == []


async def test_no_repr_shows_a_secret(world: World) -> None:
    issued = await world.issue(refresh=True)
    shown = repr((issued, world.keyring, world.settings, vars(world.keyring), vars(world.tokens)))
    assert SECRET not in shown
    assert issued.access_token not in shown


# What is accepted


async def test_a_good_token_is_accepted_again_and_again(world: World) -> None:
    issued = await world.issue(thumbprint=THUMBPRINT, scope="files:read")
    for _ in range(3):
        token = world.verify(issued.access_token)
        assert isinstance(token, VerifiedToken)
        assert (token.client_id, token.token_id, token.scope) == ("alice", issued.token_id, "files:read")
        assert token.thumbprint == THUMBPRINT


async def test_an_audience_among_others_is_accepted(world: World) -> None:
    issued = await world.issue()
    claims = claims_of(issued.access_token) | {"aud": ["https://other.example", AUDIENCE]}
    assert isinstance(world.verify(signed(header_of(issued.access_token), claims)), VerifiedToken)


async def test_tokens_outlive_a_restart(world: World) -> None:
    issued = await world.issue()
    again = World(world.stores, world.clock)
    assert isinstance(again.verify(issued.access_token), VerifiedToken)


# What is refused, and why


async def test_a_token_expires_to_the_second_remembered_or_not(world: World) -> None:
    issued = await world.issue()
    world.clock.now = START + 3599.9
    assert isinstance(world.verify(issued.access_token), VerifiedToken)
    world.clock.now = START + 3600
    assert world.verify(issued.access_token) is Reason.TOKEN_EXPIRED
    assert World(world.stores, world.clock).verify(issued.access_token) is Reason.TOKEN_EXPIRED


async def test_leeway_is_granted_both_ways(world: World) -> None:
    lenient = World(world.stores, world.clock, leeway=10.0)
    issued = await lenient.issue()
    world.clock.now = START - 10
    assert isinstance(lenient.verify(issued.access_token), VerifiedToken)
    world.clock.now = START + 3609
    assert isinstance(lenient.verify(issued.access_token), VerifiedToken)
    assert lenient.tokens.is_current(issued.token_id)
    world.clock.now = START + 3610
    assert lenient.verify(issued.access_token) is Reason.TOKEN_EXPIRED
    assert not lenient.tokens.is_current(issued.token_id)
    world.clock.now = START - 11
    assert World(world.stores, world.clock, leeway=10.0).verify(issued.access_token) is (
        Reason.TOKEN_NOT_YET_VALID
    )


async def test_revocation_is_felt_at_the_next_use(world: World) -> None:
    issued = await world.issue()
    assert isinstance(world.verify(issued.access_token), VerifiedToken)
    record = world.tokens.get(issued.token_id)
    assert record is not None
    assert await world.tokens.revoke(record) == 1
    assert await world.tokens.revoke(record) == 0
    assert world.verify(issued.access_token) is Reason.TOKEN_REVOKED
    assert World(world.stores, world.clock).verify(issued.access_token) is Reason.TOKEN_REVOKED
    assert not world.tokens.is_current(issued.token_id)


async def test_a_token_that_the_store_does_not_know_is_refused(world: World) -> None:
    issued = await world.issue()
    stray = signed(header_of(issued.access_token), claims_of(issued.access_token) | {"jti": "f" * 32})
    assert world.verify(stray) is Reason.TOKEN_UNKNOWN
    assert isinstance(world.verify(issued.access_token), VerifiedToken)
    world.stores.tokens.purge(START + 10_000)
    assert world.verify(issued.access_token) is Reason.TOKEN_UNKNOWN


@pytest.mark.parametrize("field", ["disabled_at", "erased_at"])
async def test_a_client_that_is_no_more_takes_its_tokens_along(world: World, field: str) -> None:
    issued = await world.issue()
    assert isinstance(world.verify(issued.access_token), VerifiedToken)
    await world.change(**{field: CREATED})
    assert world.verify(issued.access_token) is Reason.CLIENT_DISABLED


@pytest.mark.parametrize("change", [{"user_id": "id-another"}, {"tenant_id": "other"}])
async def test_a_token_of_an_earlier_client_of_that_name_is_refused(
    world: World, change: dict[str, str]
) -> None:
    issued = await world.issue()
    assert isinstance(world.verify(issued.access_token), VerifiedToken)
    await world.change(**change)
    assert world.verify(issued.access_token) is Reason.CLIENT_UNKNOWN


async def test_each_kind_is_good_for_its_own_use_only(world: World) -> None:
    issued = await world.issue(refresh=True)
    assert issued.refresh_token is not None
    for _ in range(2):
        assert world.verify(issued.refresh_token) is Reason.TOKEN_TYPE
        assert world.verify(issued.access_token, TokenKind.REFRESH) is Reason.TOKEN_TYPE
        assert isinstance(world.verify(issued.refresh_token, TokenKind.REFRESH), VerifiedToken)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://other.example"}, Reason.TOKEN_ISSUER),
        ({"aud": "https://other.example/mcp"}, Reason.TOKEN_AUDIENCE),
        ({"aud": ISSUER}, Reason.TOKEN_AUDIENCE),
        ({"aud": [AUDIENCE + "/", "x"]}, Reason.TOKEN_AUDIENCE),
        ({"aud": []}, Reason.TOKEN_MALFORMED),
        ({"aud": {"a": AUDIENCE}}, Reason.TOKEN_MALFORMED),
        ({"aud": [AUDIENCE, 1]}, Reason.TOKEN_MALFORMED),
        ({"exp": int(START)}, Reason.TOKEN_EXPIRED),
        ({"exp": 0}, Reason.TOKEN_EXPIRED),
        ({"exp": str(int(START) + 60)}, Reason.TOKEN_MALFORMED),
        ({"exp": START + 60.5}, Reason.TOKEN_MALFORMED),
        ({"exp": START + 60.0}, Reason.TOKEN_MALFORMED),
        ({"exp": True}, Reason.TOKEN_MALFORMED),
        ({"exp": None}, Reason.TOKEN_MALFORMED),
        ({"exp": 10**20}, Reason.TOKEN_MALFORMED),
        ({"exp": -1}, Reason.TOKEN_MALFORMED),
        ({"nbf": int(START) + 1}, Reason.TOKEN_NOT_YET_VALID),
        ({"iat": int(START) + 1}, Reason.TOKEN_NOT_YET_VALID),
        ({"nbf": False}, Reason.TOKEN_MALFORMED),
        ({"type": "refresh"}, Reason.TOKEN_TYPE),
        ({"type": "mfa"}, Reason.TOKEN_MALFORMED),
        ({"sub": "bob"}, Reason.TOKEN_MALFORMED),
        ({"jti": ""}, Reason.TOKEN_MALFORMED),
        ({"jti": 7}, Reason.TOKEN_MALFORMED),
        ({"cnf": {}}, Reason.TOKEN_MALFORMED),
        ({"cnf": {"x5t#S256": "short"}}, Reason.TOKEN_MALFORMED),
        ({"client_id": "bob", "sub": "bob"}, Reason.TOKEN_UNKNOWN),
    ],
)
async def test_a_well_signed_token_with_a_wrong_claim(
    world: World, changes: dict[str, Any], reason: Reason
) -> None:
    issued = await world.issue()
    token = signed(header_of(issued.access_token), claims_of(issued.access_token) | changes)
    refused = world.tokens.verify(token, TokenKind.ACCESS)
    assert isinstance(refused, Deny)
    assert refused.reason is reason
    assert refused.client_id == changes.get("client_id", "alice")


@pytest.mark.parametrize(
    "claim",
    [
        "iss",
        "aud",
        "sub",
        "client_id",
        "user_id",
        "tenant_id",
        "jti",
        "type",
        "iat",
        "nbf",
        "exp",
        "auth_time",
    ],
)
async def test_every_claim_is_required(world: World, claim: str) -> None:
    issued = await world.issue()
    claims = claims_of(issued.access_token)
    del claims[claim]
    assert world.verify(signed(header_of(issued.access_token), claims)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"typ": "JWT"}, Reason.TOKEN_TYPE),
        ({"typ": "rt+jwt"}, Reason.TOKEN_TYPE),
        ({"typ": None}, Reason.TOKEN_TYPE),
        ({"kid": "other"}, Reason.TOKEN_SIGNATURE),
        ({"kid": "../../dev/null"}, Reason.TOKEN_SIGNATURE),
        ({"kid": None}, Reason.TOKEN_SIGNATURE),
        ({"kid": ["x"]}, Reason.TOKEN_SIGNATURE),
        ({"alg": "none"}, Reason.TOKEN_SIGNATURE),
        ({"alg": "None"}, Reason.TOKEN_SIGNATURE),
        ({"alg": "HS384"}, Reason.TOKEN_SIGNATURE),
        ({"alg": "RS256"}, Reason.TOKEN_SIGNATURE),
        ({"alg": None}, Reason.TOKEN_SIGNATURE),
        ({"alg": ["HS256"]}, Reason.TOKEN_SIGNATURE),
        ({"crit": ["exp"]}, Reason.TOKEN_MALFORMED),
        ({"crit": []}, Reason.TOKEN_MALFORMED),
        ({"b64": False, "crit": ["b64"]}, Reason.TOKEN_MALFORMED),
        ({"jwk": {"kty": "oct", "k": "AAAA"}}, Reason.TOKEN_MALFORMED),
        ({"jku": "https://evil.example/jwks"}, Reason.TOKEN_MALFORMED),
        ({"x5c": []}, Reason.TOKEN_MALFORMED),
        ({"zip": "DEF"}, Reason.TOKEN_MALFORMED),
    ],
)
async def test_a_header_that_asks_for_something_else(
    world: World, changes: dict[str, Any], reason: Reason
) -> None:
    issued = await world.issue()
    token = signed(header_of(issued.access_token) | changes, claims_of(issued.access_token))
    assert world.verify(token) is reason


@pytest.mark.parametrize("name", ["alg", "kid", "typ"])
async def test_every_header_parameter_is_required(world: World, name: str) -> None:
    issued = await world.issue()
    header = header_of(issued.access_token)
    del header[name]
    assert world.verify(signed(header, claims_of(issued.access_token))) in {
        Reason.TOKEN_SIGNATURE,
        Reason.TOKEN_TYPE,
    }


async def test_no_signature_at_all(world: World) -> None:
    issued = await world.issue()
    header, payload, _ = issued.access_token.split(".")
    assert world.verify(f"{header}.{payload}.") is Reason.TOKEN_SIGNATURE
    none = encoded(json.dumps(header_of(issued.access_token) | {"alg": "none"}).encode())
    assert world.verify(f"{none}.{payload}.") is Reason.TOKEN_SIGNATURE


async def test_another_secret_and_another_kind_of_key(world: World) -> None:
    issued = await world.issue()
    header, claims = header_of(issued.access_token), claims_of(issued.access_token)
    assert world.verify(signed(header, claims, secret="another" * 8)) is Reason.TOKEN_SIGNATURE
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    as_rsa = jwt.encode(claims, key, algorithm="RS256", headers={"kid": header["kid"], "typ": "at+jwt"})
    assert world.verify(as_rsa) is Reason.TOKEN_SIGNATURE
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert world.verify(signed(header, claims, secret=public.decode())) is Reason.TOKEN_SIGNATURE


async def test_duplicate_keys_are_refused(world: World) -> None:
    issued = await world.issue()
    header, claims = header_of(issued.access_token), claims_of(issued.access_token)
    twice = json.dumps(claims)[:-1].encode() + b', "client_id": "alice"}'
    assert world.verify(signed(header, twice)) is Reason.TOKEN_MALFORMED
    nested = (
        json.dumps(claims | {"cnf": 0})
        .encode()
        .replace(b'"cnf": 0', b'"cnf": {"x5t#S256": "%b", "x5t#S256": "%b"}' % (b"A" * 43, b"B" * 43))
    )
    assert world.verify(signed(header, nested)) is Reason.TOKEN_MALFORMED
    twice = json.dumps(header)[:-1].encode() + b', "alg": "HS256"}'
    assert world.verify(signed(twice, claims)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe{\x00}\x00",
        b'{"exp": NaN}',
        b'{"exp": 1e999}',
        b"[" * 3000,
        b'{"client_id": "\\ud800"}',
        b"{}{}",
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
)
async def test_a_well_signed_payload_that_is_no_claims(world: World, payload: bytes) -> None:
    header = header_of((await world.issue()).access_token)
    assert world.verify(signed(header, payload)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c.d",
        "é.é.é",
        "\udcff.a.a",
        "a" * (MAX_TOKEN + 1),
        "a.b.c\n",
        " a.b.c",
    ],
)
async def test_what_is_no_token(world: World, token: str) -> None:
    assert world.verify(token) is Reason.TOKEN_MALFORMED
    assert world.tokens.find(token) is None


async def test_one_spelling_only(world: World) -> None:
    token = (await world.issue()).access_token
    header, payload, signature = token.split(".")
    last = signature[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = alphabet[
        alphabet.index(last) ^ 1
    ]  # the two lowest bits of a signature's last character mean nothing
    for other in (
        f"{token}=",
        f"{header}=.{payload}.{signature}",
        f"{header}.{payload}.{signature[:-1]}{twin}",
        token.replace("-", "+").replace("_", "/") + "+",
        f"{header}.{payload}\n.{signature}",
    ):
        assert world.verify(other) in {Reason.TOKEN_MALFORMED, Reason.TOKEN_SIGNATURE}, other


async def test_too_long_a_token_is_refused_unread_even_if_well_signed(world: World) -> None:
    issued = await world.issue()
    claims = claims_of(issued.access_token) | {"padding": "x" * MAX_TOKEN}
    assert world.verify(signed(header_of(issued.access_token), claims)) is Reason.TOKEN_MALFORMED


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_changed_token_is_ever_accepted(world: World, data: st.DataObject) -> None:
    token = (await world.issue(thumbprint=THUMBPRINT)).access_token
    at = data.draw(st.integers(0, len(token) - 1))
    length = data.draw(st.integers(0, 3))
    alphabet = st.sampled_from("ABCXYZabcxyz0189-_.=+/ \n\0é")
    other = token[:at] + data.draw(st.text(alphabet, max_size=3)) + token[at + length :]
    if other != token:
        assert isinstance(world.verify(other), Reason)
        assert isinstance(world.verify(token), VerifiedToken)


# Ending them


async def test_revoking_an_access_token_ends_that_one_alone(world: World) -> None:
    issued = await world.issue(refresh=True)
    assert issued.refresh_token is not None
    record = world.tokens.find(issued.access_token)
    assert record is not None
    assert await world.tokens.revoke(record) == 1
    assert world.verify(issued.access_token) is Reason.TOKEN_REVOKED
    assert isinstance(world.verify(issued.refresh_token, TokenKind.REFRESH), VerifiedToken)


async def test_revoking_a_refresh_token_ends_its_family(world: World) -> None:
    issued, other = await world.issue(refresh=True), await world.issue(refresh=True)
    assert issued.refresh_token is not None
    refresh = world.verify(issued.refresh_token, TokenKind.REFRESH)
    assert isinstance(refresh, VerifiedToken)
    later = await world.issue(family_id=refresh.family_id)
    record = world.tokens.find(issued.refresh_token)
    assert record is not None
    assert await world.tokens.revoke(record) == 3
    assert world.verify(issued.refresh_token, TokenKind.REFRESH) is Reason.TOKEN_REVOKED
    for access_token in (issued.access_token, later.access_token):
        assert world.verify(access_token) is Reason.TOKEN_REVOKED
    assert isinstance(world.verify(other.access_token), VerifiedToken)


async def test_find_knows_only_what_was_signed_here(world: World) -> None:
    issued = await world.issue()
    forged = signed(header_of(issued.access_token), claims_of(issued.access_token), secret="another" * 8)
    assert world.tokens.find(forged) is None
    found = world.tokens.find(issued.access_token)
    assert found is not None
    assert found.token_id == issued.token_id


# The keyring


def test_a_kid_says_nothing_about_the_key_and_differs_by_key() -> None:
    tokens = [Keyring(TokenSettings(secret=s)).sign("at+jwt", {}) for s in (SECRET, SECRET[::-1], SECRET)]
    kids = [header_of(token)["kid"] for token in tokens]
    assert kids[0] == kids[2] != kids[1]
    plain = hashlib.sha256(SECRET.encode())
    assert kids[0] not in plain.hexdigest()


def test_a_secret_key_is_in_no_key_set() -> None:
    assert Keyring(TokenSettings(secret=SECRET)).jwks(START) == {"keys": []}


def test_a_secret_is_no_private_key() -> None:
    with pytest.raises(ValueError, match="no private key in PEM"):
        Keyring(TokenSettings(secret=SECRET, algorithm=Algorithm.RS256))


async def test_a_retired_key_is_good_for_what_it_signed_in_its_time_alone(world: World) -> None:
    old = await world.issue()
    exp = claims_of(old.access_token)["exp"]
    retired = SigningKey(Algorithm.HS256, SECRET, verify_until=exp)
    world.keyring.replace(replace(world.settings, secret=SECRET[::-1], retired=(retired,)))
    world.tokens.forget_verified()
    assert isinstance(world.verify(old.access_token), VerifiedToken)
    # Whoever has the old key knows the id of a live token, too.
    forged = signed(header_of(old.access_token), {**claims_of(old.access_token), "exp": exp + 1})
    assert world.verify(forged) is Reason.TOKEN_SIGNATURE
    new = await world.issue()
    assert isinstance(world.verify(new.access_token), VerifiedToken)
    world.keyring.replace(replace(world.settings, secret=SECRET[::-1]))
    world.tokens.forget_verified()
    assert world.verify(old.access_token) is Reason.TOKEN_SIGNATURE


def test_a_key_that_cannot_be_used_changes_nothing() -> None:
    keyring = Keyring(TokenSettings(secret=SECRET))
    with pytest.raises(ValueError, match="no private key"):
        keyring.replace(TokenSettings(secret="x", algorithm=Algorithm.ES256))
    assert not isinstance(keyring.open(keyring.sign("at+jwt", {"exp": 1})), Deny)


@functools.cache
def keyring_of(algorithm: Algorithm, _who: str) -> Keyring:
    return Keyring(TokenSettings(secret=make(algorithm).strip(), algorithm=algorithm))


@given(st.sampled_from(list(Algorithm)), st.sampled_from(list(Algorithm)))
@settings(max_examples=25, deadline=None)
def test_a_token_is_opened_by_its_own_key_alone(one: Algorithm, other: Algorithm) -> None:
    mine, theirs = (keyring_of(algorithm, who) for algorithm, who in ((one, "mine"), (other, "theirs")))
    token = mine.sign("at+jwt", {"exp": 1})
    assert not isinstance(mine.open(token), Deny)
    assert isinstance(theirs.open(token), Deny)
    _, claims, signature = token.split(".")
    forged = {**header_of(token), "alg": other.value, "kid": theirs.signing_kid}
    swapped = encoded(json.dumps(forged).encode())
    assert isinstance(theirs.open(f"{swapped}.{claims}.{signature}"), Deny)
