"""Two layers that must agree: every line of the contract on certificates and tokens."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certs.identity import CertificateField, IdentityRule, PeerIdentity
from gateway.authn import Authenticator
from gateway.config.values import TokenSettings
from gateway.identity.api_keys import ApiKeys
from gateway.identity.keyring import Keyring
from gateway.identity.roles import Roles, requested_scope, scope_of
from gateway.identity.tokens import Grant, Issued, Tokens
from gateway.model import ANONYMOUS, ClientContext, Deny, Inbound, Permissions, Proof, Reason
from persistence.json_store import JsonStores
from persistence.records import API_KEYS, ClientRecord

START = 1_800_000_000.0
CREATED = "2026-01-01T00:00:00.000Z"
ROLES = {
    "admin": ("*:*",),
    "analyst": ("files:read", "reports:*"),
    "owner": ("*:*", "platform:*"),
    "empty": (),
}
RULES = (
    IdentityRule(CertificateField.SAN_URI, re.compile(r"spiffe://example\.org/(?P<client_id>[a-z]+)")),
    IdentityRule(CertificateField.COMMON_NAME),
)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def record_of(client_id: str, **fields: Any) -> ClientRecord:
    return ClientRecord(
        **{
            "client_id": client_id,
            "username": client_id,
            "user_id": f"id-{client_id}",
            "certificate": client_id,
            "roles": ("analyst",),
            "created_at": CREATED,
            "updated_at": CREATED,
            **fields,
        }
    )


def certificate(name: str, number: int = 1, **fields: Any) -> PeerIdentity:
    return PeerIdentity(
        **{
            "fingerprint": f"{name}{number}".ljust(43, "_"),
            "serial": number,
            "subject": f"CN={name}",
            "issuer": "CN=CA",
            "common_names": (name,),
            "san_uri": (),
            "san_dns": (),
            "san_email": (),
            "not_before": START - 1000,
            "not_after": START + 1000,
            **fields,
        }
    )


ALICE, BOB, STRANGER = certificate("alice"), certificate("bob"), certificate("stranger")


class World:
    def __init__(self, stores: JsonStores, clock: Clock) -> None:
        self.stores = stores
        self.clock = clock
        token_settings = TokenSettings(secret="Zq8!vT2#mN5$kL9%wR4^xB7&yH1*pJ6(")
        self.tokens = Tokens(
            token_settings, Keyring(token_settings), stores.tokens, stores.clients, now=clock
        )
        self.authenticator = Authenticator(
            self.tokens,
            stores.clients,
            ROLES,
            RULES,
            api_keys=ApiKeys(stores.collection(API_KEYS), stores.clients, now=clock),
            now=clock,
        )

    async def put(self, client_id: str, **fields: Any) -> None:
        await self.stores.clients.put(record_of(client_id, **fields))

    async def issue(
        self, client_id: str = "alice", *, peer: PeerIdentity | None = None, scope: str = ""
    ) -> Issued:
        client = self.stores.clients.get(client_id)
        assert client is not None
        thumbprint = None if peer is None else peer.fingerprint
        grant = Grant(client, scope, "", int(self.clock.now), thumbprint)
        issued = await self.tokens.issue(grant, with_refresh=True)
        assert isinstance(issued, Issued)
        return issued

    async def token(self, client_id: str = "alice", **fields: Any) -> str:
        return (await self.issue(client_id, **fields)).access_token

    def ask(
        self, *authorization: str, peer: PeerIdentity | None = None, api_keys: tuple[str, ...] = ()
    ) -> ClientContext | Deny:
        return self.authenticator.authenticate(
            Inbound(
                request_id="r",
                method="GET",
                path="/mcp",
                address="192.0.2.1",
                user_agent=None,
                peer=peer,
                authorization=authorization,
                api_keys=api_keys,
                started=0.0,
            )
        )

    def let_in(self, *authorization: str, peer: PeerIdentity | None = None) -> ClientContext:
        context = self.ask(*authorization, peer=peer)
        assert isinstance(context, ClientContext), context
        return context

    def refused(self, *authorization: str, peer: PeerIdentity | None = None) -> Reason:
        deny = self.ask(*authorization, peer=peer)
        assert isinstance(deny, Deny), deny
        return deny.reason


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    stores = await JsonStores.open(tmp_path / "persistence", now=clock)
    made = World(stores, clock)
    for client_id in ("alice", "bob"):
        await made.put(client_id)
    yield made
    await stores.close()


# No credentials, and certificates alone


async def test_without_credentials_one_is_anonymous(world: World) -> None:
    assert world.ask() is ANONYMOUS


async def test_a_certificate_of_a_known_client_is_an_identity_by_itself(world: World) -> None:
    for _ in range(2):
        context = world.let_in(peer=ALICE)
        assert (context.client_id, context.tenant_id, context.user_id) == ("alice", "default", "id-alice")
        assert context.certificate_thumbprint == ALICE.fingerprint
        assert context.token_id is None
        assert context.permissions.cover(["files:read", "reports:write"])
        assert set(context.proofs.values()) == {Proof.CERTIFICATE}
        assert context.proofs["client_id"] is Proof.CERTIFICATE


async def test_the_rules_name_the_client_not_the_common_name(world: World) -> None:
    peer = certificate("bob", 2, san_uri=("spiffe://example.org/alice",))
    assert world.let_in(peer=peer).client_id == "alice"


async def test_a_client_may_have_another_certificate_id_or_none(world: World) -> None:
    await world.put("carol", certificate="carol-laptop")
    assert world.ask(peer=certificate("carol")) is ANONYMOUS
    assert world.let_in(peer=certificate("carol-laptop")).client_id == "carol"
    await world.put("carol", certificate=None)
    assert world.ask(peer=certificate("carol-laptop")) is ANONYMOUS


async def test_a_certificate_that_maps_to_nobody_leaves_one_anonymous(world: World) -> None:
    assert world.ask(peer=STRANGER) is ANONYMOUS


@pytest.mark.parametrize("field", ["disabled_at", "erased_at"])
async def test_the_certificate_of_a_disabled_or_erased_client_is_refused(world: World, field: str) -> None:
    assert world.let_in(peer=ALICE)
    await world.put("alice", **{field: CREATED})
    assert world.refused(peer=ALICE) is Reason.CLIENT_DISABLED
    await world.put("alice")
    assert world.let_in(peer=ALICE)


async def test_a_certificate_that_expires_on_an_open_connection_is_refused(world: World) -> None:
    token = await world.token()
    assert world.let_in(peer=ALICE)
    world.clock.now = ALICE.not_after
    assert world.refused(peer=ALICE) is Reason.CERTIFICATE_EXPIRED
    assert world.refused(f"Bearer {token}", peer=ALICE) is Reason.CERTIFICATE_EXPIRED
    assert world.refused(peer=certificate("stranger", not_after=START)) is Reason.CERTIFICATE_EXPIRED
    assert world.let_in(f"Bearer {token}").client_id == "alice"


# Tokens


async def test_an_unbound_token_is_good_with_its_clients_certificate_or_none(world: World) -> None:
    issued = await world.issue()
    alone = world.let_in(f"Bearer {issued.access_token}")
    assert (alone.client_id, alone.token_id, alone.auth_time) == ("alice", issued.token_id, START)
    assert set(alone.proofs.values()) == {Proof.TOKEN}
    both = world.let_in(f"Bearer {issued.access_token}", peer=ALICE)
    assert (both.client_id, both.certificate_thumbprint) == ("alice", ALICE.fingerprint)
    assert both.proofs["client_id"] is Proof.CERTIFICATE
    assert both.proofs["roles"] is Proof.TOKEN
    assert world.let_in(f"Bearer {issued.access_token}", peer=certificate("alice", 2))


async def test_certificate_and_token_must_name_the_same_client(world: World) -> None:
    token = await world.token()
    for _ in range(2):
        deny = world.ask(f"Bearer {token}", peer=BOB)
        assert isinstance(deny, Deny)
        assert (deny.reason, deny.client_id) == (Reason.CERTIFICATE_MISMATCH, "alice")
        assert world.let_in(f"Bearer {token}", peer=ALICE)


async def test_a_certificate_that_maps_to_nobody_spoils_a_token(world: World) -> None:
    token = await world.token()
    assert world.refused(f"Bearer {token}", peer=STRANGER) is Reason.CERTIFICATE_UNMAPPED


async def test_a_bound_token_is_good_only_with_its_certificate(world: World) -> None:
    token = await world.token(peer=ALICE)
    assert world.let_in(f"Bearer {token}", peer=ALICE).client_id == "alice"
    assert world.refused(f"Bearer {token}") is Reason.CERTIFICATE_REQUIRED
    assert world.refused(f"Bearer {token}", peer=certificate("alice", 2)) is Reason.CERTIFICATE_MISMATCH
    assert world.refused(f"Bearer {token}", peer=BOB) is Reason.CERTIFICATE_MISMATCH
    assert world.refused(f"Bearer {token}", peer=STRANGER) is Reason.CERTIFICATE_UNMAPPED
    assert world.let_in(f"Bearer {token}", peer=ALICE).client_id == "alice"


async def test_a_client_that_requires_its_certificate(world: World) -> None:
    token = await world.token()
    assert world.let_in(f"Bearer {token}")
    await world.put("alice", require_certificate=True)
    assert world.refused(f"Bearer {token}") is Reason.CERTIFICATE_REQUIRED
    assert world.let_in(f"Bearer {token}", peer=ALICE).client_id == "alice"


async def test_revocation_and_expiry_are_felt_at_once(world: World) -> None:
    issued = await world.issue()
    assert world.let_in(f"Bearer {issued.access_token}")
    record = world.tokens.get(issued.token_id)
    assert record is not None
    await world.tokens.revoke(record)
    assert world.refused(f"Bearer {issued.access_token}") is Reason.TOKEN_REVOKED
    assert world.refused(f"Bearer {issued.access_token}", peer=ALICE) is Reason.TOKEN_REVOKED
    assert world.let_in(peer=ALICE), "the certificate still works"
    other = await world.token()
    world.clock.now += 3600
    assert world.refused(f"Bearer {other}") is Reason.TOKEN_EXPIRED


async def test_a_refresh_token_is_no_access_token(world: World) -> None:
    assert world.refused(f"Bearer {(await world.issue()).refresh_token}") is Reason.TOKEN_TYPE


async def test_a_disabled_clients_token_is_refused(world: World) -> None:
    token = await world.token()
    await world.put("alice", disabled_at=CREATED)
    assert world.refused(f"Bearer {token}") is Reason.CLIENT_DISABLED
    assert world.refused(f"Bearer {token}", peer=ALICE) is Reason.CLIENT_DISABLED


# What is there and wrong never falls back


@pytest.mark.parametrize("peer", [None, ALICE, STRANGER])
@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", Reason.UNSUPPORTED_CREDENTIALS),
        (" ", Reason.UNSUPPORTED_CREDENTIALS),
        ("Bearer", Reason.TOKEN_MALFORMED),
        ("Bearer ", Reason.TOKEN_MALFORMED),
        ("Bearer x y", Reason.TOKEN_MALFORMED),
        ("Bearer x, Bearer y", Reason.TOKEN_MALFORMED),
        ("Bearer x.y.z", Reason.TOKEN_MALFORMED),
        ("Bearer\tx", Reason.UNSUPPORTED_CREDENTIALS),
        ("Basic YWxpY2U6eA==", Reason.UNSUPPORTED_CREDENTIALS),
        ("Digest x", Reason.UNSUPPORTED_CREDENTIALS),
        ("DPoP x", Reason.UNSUPPORTED_CREDENTIALS),
        ("x.y.z", Reason.UNSUPPORTED_CREDENTIALS),
    ],
)
async def test_wrong_credentials(
    world: World, authorization: str, reason: Reason, peer: PeerIdentity | None
) -> None:
    assert world.refused(authorization, peer=peer) is reason


async def test_the_scheme_may_be_in_any_case(world: World) -> None:
    token = await world.token()
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert world.let_in(f"{scheme} {token}").client_id == "alice"


async def test_two_credentials_are_ambiguous(world: World) -> None:
    token = f"Bearer {await world.token()}"
    for answer in (
        world.ask(token, token),
        world.ask(token, "Basic YWxpY2U6eA=="),
        world.ask(token, api_keys=("k",)),
        world.ask(api_keys=("k", "k")),
    ):
        assert isinstance(answer, Deny)
        assert answer.reason is Reason.AMBIGUOUS_CREDENTIALS


async def test_an_unknown_api_key_is_refused(world: World) -> None:
    answer = world.ask(api_keys=("k",), peer=ALICE)
    assert isinstance(answer, Deny)
    assert answer.reason is Reason.API_KEY_UNKNOWN


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.text(max_size=60))
async def test_no_authorization_field_without_a_token_lets_anyone_in(world: World, field: str) -> None:
    for authorization in (field, f"Bearer {field}"):
        assert isinstance(world.ask(authorization, peer=ALICE), Deny)


# Permissions


async def test_permissions_are_those_of_the_roles_and_the_clients_own(world: World) -> None:
    await world.put("alice", roles=("analyst", "unknown", "empty"), permissions=("notes:write",))
    token = await world.token()
    assert world.let_in(f"Bearer {token}").permissions.grants == {"files:read", "reports:*", "notes:write"}


async def test_a_changed_role_is_felt_at_the_next_use(world: World) -> None:
    token = await world.token()
    assert not world.let_in(f"Bearer {token}").permissions.everything
    await world.put("alice", roles=("admin",))
    assert world.let_in(f"Bearer {token}").permissions.everything
    assert world.let_in(peer=ALICE).permissions.everything


async def test_the_tokens_scope_narrows(world: World) -> None:
    context = world.let_in(f"Bearer {await world.token(scope='files:read reports:write')}")
    assert context.permissions.grants == {"files:read", "reports:write"}
    assert context.scope == "files:read reports:write"
    assert world.let_in(peer=ALICE).permissions.grants == {"files:read", "reports:*"}


SEGMENT = st.sampled_from(["files", "reports", "platform", "*"])
PERMISSION = st.builds("{}:{}".format, SEGMENT, st.sampled_from(["read", "write", "*"]))
CONCRETE = st.builds(
    "{}:{}".format, st.sampled_from(["files", "reports", "platform"]), st.sampled_from(["read", "write"])
)


@given(grants=st.frozensets(PERMISSION, max_size=5), scope=st.sets(PERMISSION, min_size=1), needed=CONCRETE)
def test_a_scope_allows_exactly_what_both_allow(grants: frozenset[str], scope: set[str], needed: str) -> None:
    client = record_of("alice", roles=(), permissions=tuple(grants))
    narrowed = Roles({}).permissions(client, " ".join(scope))
    both = Permissions(grants).cover([needed]) and Permissions(frozenset(scope)).cover([needed])
    assert narrowed.cover([needed]) == both


@given(grants=st.frozensets(PERMISSION, max_size=5), wanted=st.lists(PERMISSION, min_size=1, max_size=4))
def test_a_scope_that_is_granted_is_covered_and_kept_in_order(
    grants: frozenset[str], wanted: list[str]
) -> None:
    scope = requested_scope(" ".join(wanted), Permissions(grants))
    if isinstance(scope, Deny):
        assert scope.reason is Reason.INVALID_SCOPE
        assert not Permissions(grants).cover(wanted)
    else:
        assert scope.split(" ") == list(dict.fromkeys(wanted))


@pytest.mark.parametrize(
    "text", ["files", " files:read", "files:read ", "a:b  c:d", "FILES:read", "a:b:c", "ä:b"]
)
def test_what_is_no_scope(text: str) -> None:
    scope = requested_scope(text, Permissions(frozenset({"*:*"})))
    assert isinstance(scope, Deny)


def test_no_scope_narrows_nothing() -> None:
    assert requested_scope(None, Permissions(frozenset())) == ""
    assert scope_of(Permissions(frozenset({"b:c", "a:b"}))) == "a:b b:c"


# Open streams


async def test_a_stream_is_valid_as_long_as_its_caller_is(world: World) -> None:
    issued = await world.issue()
    context = world.let_in(f"Bearer {issued.access_token}", peer=ALICE)
    valid = world.authenticator.still_valid
    assert valid(context, ALICE)
    assert valid(ANONYMOUS, None)
    assert valid(ANONYMOUS, STRANGER)
    world.clock.now = ALICE.not_after
    assert not valid(context, ALICE)
    assert not valid(ANONYMOUS, certificate("stranger"))


async def test_a_stream_ends_with_its_token(world: World) -> None:
    issued, other = await world.issue(), await world.issue()
    context = world.let_in(f"Bearer {issued.access_token}")
    another = world.let_in(f"Bearer {other.access_token}")
    record = world.tokens.get(issued.token_id)
    assert record is not None
    await world.tokens.revoke(record)
    assert not world.authenticator.still_valid(context, None)
    assert world.authenticator.still_valid(another, None)
    world.clock.now += 3600
    assert not world.authenticator.still_valid(another, None)


@pytest.mark.parametrize(
    "change",
    [
        {"disabled_at": CREATED},
        {"erased_at": CREATED},
        {"user_id": "id-another"},
        {"certificate": "other"},
    ],
)
async def test_a_stream_ends_with_its_client_or_its_certificate(world: World, change: dict[str, Any]) -> None:
    by_certificate = world.let_in(peer=ALICE)
    by_token = world.let_in(f"Bearer {await world.token()}", peer=ALICE)
    await world.put("alice", **change)
    assert not world.authenticator.still_valid(by_certificate, ALICE)
    assert not world.authenticator.still_valid(by_token, ALICE)


async def test_a_stream_without_certificate_ends_once_one_is_required(world: World) -> None:
    context = world.let_in(f"Bearer {await world.token()}")
    assert world.authenticator.still_valid(context, None)
    await world.put("alice", require_certificate=True)
    assert not world.authenticator.still_valid(context, None)


async def test_a_changed_field_that_does_not_matter_ends_nothing(world: World) -> None:
    context = world.let_in(peer=ALICE)
    record = world.stores.clients.get("alice")
    assert record is not None
    await world.stores.clients.put(msgspec.structs.replace(record, email="a@example.org"))
    assert world.authenticator.still_valid(context, ALICE)
