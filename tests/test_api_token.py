"""The token endpoints over HTTP: grants, certificates, refusals as OAuth has them, and what the audit says."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestClient

from certs.identity import DEFAULT_RULES, PeerIdentity
from gateway.api.oauth import oauth_error
from gateway.api.token import TokenEndpoint
from gateway.audit import Audit
from gateway.authn import Authenticator
from gateway.config import (
    AccountSettings,
    Config,
    LimitSettings,
    OnAuditFailure,
    ServerSettings,
    StorageSettings,
    TlsSettings,
    TokenSettings,
)
from gateway.identity.clients import Hasher, Passwords
from gateway.identity.keyring import Keyring
from gateway.identity.tokens import Tokens
from gateway.model import ANONYMOUS, ClientContext, Deny, Inbound, Reason
from persistence.json_store import JsonStores
from persistence.records import AuditEntry, AuditQuery, AuditStatus, ClientRecord, StoreError

START = 1_800_000_000.0
CREATED = "2026-01-01T00:00:00.000Z"
URL = "https://gate.example"
PASSWORD = "Correct-Horse-7"
ROLES = {"admin": ("*:*",), "analyst": ("files:read", "reports:*"), "owner": ("*:*", "platform:*")}
PATHS = {
    ("GET", "/auth/token"): "get",
    ("HEAD", "/auth/token"): "get",
    ("POST", "/auth/token"): "post",
    ("POST", "/auth/refresh"): "refresh",
    ("POST", "/auth/revoke"): "revoke",
    ("POST", "/auth/introspect"): "introspect",
}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class CountingHasher(Hasher):
    def __init__(self) -> None:
        super().__init__(rounds=4)
        self.compared = 0

    async def matches(self, password: bytes, stored: str | None) -> bool:
        self.compared += 1
        return await super().matches(password, stored)


def thumbprint(name: str) -> str:
    return name.ljust(43, "_")


def certificate(name: str) -> PeerIdentity:
    """``name`` is the common name; what follows a ``/`` sets certificates of one client apart."""
    return PeerIdentity(
        fingerprint=thumbprint(name),
        serial=1,
        subject="",
        issuer="CN=CA",
        common_names=(name.partition("/")[0],),
        san_uri=(),
        san_dns=(),
        san_email=(),
        not_before=START - 1000,
        not_after=START + 100_000,
    )


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


class FailingAudit:
    """An audit store on a full disk."""

    def append_soon(self, entry: AuditEntry) -> None:
        raise StoreError("no space left")

    async def append(self, entry: AuditEntry) -> None:
        raise StoreError("no space left")


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, text: str) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body: dict[str, Any] = json.loads(text) if text else {}

    @property
    def challenges(self) -> str:
        return ", ".join(self.headers.getall("WWW-Authenticate", []))

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, OAuth error and reason; everything else that an error has is checked here."""
        body = self.body
        assert body.keys() == {"error", "error_description", "reason", "request_id"}, body
        assert body["request_id"] == "req-1"
        assert body["error_description"].isascii()
        assert self.headers["Cache-Control"] == "no-store"
        assert self.headers["Content-Type"].startswith("application/json")
        assert ("WWW-Authenticate" in self.headers) == (self.status in {401, 403})
        return self.status, body["error"], body["reason"]

    @property
    def claims(self) -> dict[str, Any]:
        assert self.status == 200, self.body
        return dict(jwt.decode(self.body["access_token"], options={"verify_signature": False}))


class World:
    def __init__(self, stores: JsonStores) -> None:
        self.stores = stores
        self.clock = Clock()
        self.hasher = CountingHasher()
        self.config = Config(
            file=Path("ostiary.toml"),
            server=ServerSettings(public_url=URL),
            tls=TlsSettings(Path("a"), Path("b"), None),
            tokens=TokenSettings(
                secret="Zq8!vT2#mN5$kL9%wR4^xB7&yH1*pJ6(", issuer=URL, audience=f"{URL}/mcp"
            ),
            storage=StorageSettings(Path("persistence")),
            roles=ROLES,
            accounts=AccountSettings(lockout_after=3),
            limits=LimitSettings(login_per_minute=30),
        )
        self.tokens = Tokens(
            self.config.tokens, Keyring(self.config.tokens), stores.tokens, stores.clients, now=self.clock
        )
        self.authenticator = Authenticator(self.tokens, stores.clients, ROLES, DEFAULT_RULES, now=self.clock)
        self.passwords = Passwords(
            self.config.accounts, self.config.limits, monotonic=self.clock, hasher=self.hasher
        )
        self.use_audit(Audit(stores.audit, OnAuditFailure.REFUSE, now=self.clock, monotonic=self.clock))
        self.http: TestClient[Any, Any]

    def use_audit(self, audit: Audit) -> None:
        self.audit = audit
        self.endpoint = TokenEndpoint(
            config=self.config,
            tokens=self.tokens,
            passwords=self.passwords,
            authenticator=self.authenticator,
            stores=self.stores,
            audit=audit,
            now=self.clock,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the edge does, without TLS: ``X-Test-Certificate`` stands for the connection's certificate."""
        headers = request.headers
        name = headers.get("X-Test-Certificate")
        inbound = Inbound(
            request_id="req-1",
            method=request.method,
            path=request.path,
            address="192.0.2.1",
            user_agent=headers.get("User-Agent"),
            peer=None if name is None else certificate(name),
            authorization=tuple(headers.getall("Authorization", ())),
            api_keys=tuple(headers.getall("X-API-Key", ())),
            started=self.clock.now,
        )
        handler = getattr(self.endpoint, PATHS[request.method, request.path])
        response: web.StreamResponse = await handler(request, inbound, ANONYMOUS)
        return response

    async def put(self, client_id: str, *, password: str | None = PASSWORD, **fields: Any) -> None:
        await self.stores.clients.put(
            ClientRecord(
                **{
                    "client_id": client_id,
                    "username": client_id,
                    "user_id": f"id-{client_id}",
                    "password_hash": None if password is None else await self.hasher.hash(password.encode()),
                    "certificate": client_id,
                    "roles": ("analyst",),
                    "created_at": CREATED,
                    "updated_at": CREATED,
                    **fields,
                }
            )
        )

    async def change(self, client_id: str, **fields: Any) -> None:
        record = self.stores.clients.get(client_id)
        assert record is not None
        await self.stores.clients.put(msgspec.structs.replace(record, **fields))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        cert: str | None = None,
        basic: tuple[str, str] | None = None,
        bearer: str | None = None,
        headers: list[tuple[str, str]] | None = None,
        **options: Any,
    ) -> Answer:
        sent = [("User-Agent", "test/1"), *(headers or [])]
        if cert is not None:
            sent.append(("X-Test-Certificate", cert))
        if basic is not None:
            credentials = base64.b64encode(":".join(basic).encode()).decode()
            sent.append(("Authorization", f"Basic {credentials}"))
        if bearer is not None:
            sent.append(("Authorization", f"Bearer {bearer}"))
        async with self.http.request(method, path, headers=sent, **options) as response:
            return Answer(response, await response.text())

    async def get(self, query: str = "", **options: Any) -> Answer:
        return await self.ask("GET", f"/auth/token{query}", **options)

    async def post(self, path: str = "token", *, form: Any = None, **options: Any) -> Answer:
        return await self.ask("POST", f"/auth/{path}", data=form, **options)

    async def password(self, name: str = "alice", **options: Any) -> Answer:
        return await self.post(form={"username": name, "password": PASSWORD}, **options)

    def works(self, token: str, cert: str | None = None) -> bool:
        """Whether a call with this token would be let in."""
        peer = None if cert is None else certificate(cert)
        answer = self.authenticator.authenticate(
            Inbound("r", "POST", "/mcp", "192.0.2.1", None, peer, (f"Bearer {token}",), (), 0.0)
        )
        assert isinstance(answer, ClientContext | Deny)
        return isinstance(answer, ClientContext)

    async def audited(self, event: str | None = None) -> list[AuditEntry]:
        """The entries, oldest first."""
        mark = AuditEntry(timestamp=CREATED, event="mark", status=AuditStatus.OK)
        await self.stores.audit.append(mark)
        page = await self.stores.audit.query(AuditQuery(event=event, limit=1000))
        return [entry for entry in reversed(page.entries) if entry.event != "mark"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    stores = await JsonStores.open(tmp_path / "persistence", now=lambda: START)
    made = World(stores)
    for name, role in (("alice", "analyst"), ("bob", "analyst"), ("root", "admin")):
        await made.put(name, roles=(role,))
    server = RawTestServer(made.handle)
    await server.start_server()
    async with TestClient(server) as made.http:
        yield made
    await made.passwords.close()
    await made.audit.close()
    await stores.close()


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
    assert answer.claims["cnf"] == {"x5t#S256": thumbprint("alice")}
    token = answer.body["access_token"]
    assert world.works(token, "alice")
    assert not world.works(token)
    assert not world.works(token, "alice/2")
    assert not world.works(token, "bob")


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("as_json", [True, False])
async def test_the_password_grant(world: World, explicit: bool, as_json: bool) -> None:
    fields = {"username": "alice", "password": PASSWORD} | ({"grant_type": "password"} if explicit else {})
    answer = await world.ask("POST", "/auth/token", **({"json": fields} if as_json else {"data": fields}))
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
    assert "refresh_token" in answer.body


async def test_a_password_over_ones_own_certificate_is_bound_to_it(world: World) -> None:
    answer = await world.password(cert="alice")
    assert answer.claims["cnf"] == {"x5t#S256": thumbprint("alice")}
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


@pytest.mark.parametrize("resource", [f"{URL}/mcp", f"{URL}/mcp/", f"{URL}/mcp/files"])
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
    for options in ({}, {"basic": ("alice", PASSWORD)}):
        answer = await world.get(cert="stranger", **options)
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
    answer = await world.password()
    assert answer.error == (401, "invalid_client", "certificate_required")
    wrong = await world.post(form={"username": "alice", "password": "wrong"})
    assert wrong.error == (400, "invalid_grant", "invalid_credentials")
    assert (await world.password(cert="alice")).status == 200
    assert (await world.get(cert="alice")).status == 200


@pytest.mark.parametrize(
    "field", ["Bearer x.y.z", "Digest x", "", "Basic", "Basic !", "Basic YWxpY2U=", "Basic gA=="]
)
async def test_a_header_that_cannot_be_used_never_falls_back(world: World, field: str) -> None:
    answer = await world.get(headers=[("Authorization", field)], cert="alice")
    assert answer.status == 401
    assert answer.body["error"] == "invalid_client"


async def test_api_keys_are_refused(world: World) -> None:
    answer = await world.get(headers=[("X-API-Key", "k")], cert="alice")
    assert answer.error == (401, "invalid_client", "unsupported_credentials")


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


# Refreshing


async def test_a_refresh_token_gives_a_new_access_token_and_the_old_one_lives_on(world: World) -> None:
    first = (await world.password()).body
    world.clock.now += 1800
    for answer in (
        await world.post("refresh", form={"refresh_token": first["refresh_token"]}),
        await world.ask("POST", "/auth/refresh", json={"refresh_token": first["refresh_token"]}),
        await world.post(form={"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}),
    ):
        assert answer.body["refresh_token"] == first["refresh_token"]
        assert answer.claims["exp"] == int(START) + 1800 + 3600
        assert answer.claims["auth_time"] == int(START)
        assert world.works(answer.body["access_token"])
    assert world.works(first["access_token"])
    world.clock.now += 1800
    assert not world.works(first["access_token"])


async def test_the_scope_of_a_refreshed_token_is_at_most_that_of_the_first(world: World) -> None:
    form = {"username": "alice", "password": PASSWORD, "scope": "reports:read reports:write"}
    refresh = {"refresh_token": (await world.post(form=form)).body["refresh_token"]}
    assert (await world.post("refresh", form=refresh)).body["scope"] == "reports:read reports:write"
    narrower = await world.post("refresh", form=refresh | {"scope": "reports:read"})
    assert narrower.body["scope"] == "reports:read"
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
        assert (await world.post("refresh", form=refresh, **options)).status == 200
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
    assert renewed.claims["cnf"] == {"x5t#S256": thumbprint("alice/renewed")}
    assert world.works(renewed.body["access_token"], "alice/renewed")
    assert not world.works(renewed.body["access_token"], "alice")


async def test_a_refresh_token_issued_without_a_certificate_binds_to_one_that_is_there(world: World) -> None:
    refresh = {"refresh_token": (await world.password()).body["refresh_token"]}
    answer = await world.post("refresh", form=refresh, cert="alice")
    assert answer.claims["cnf"] == {"x5t#S256": thumbprint("alice")}
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
        assert 'error="insufficient_scope", scope="tokens:write"' in answer.challenges
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
        "cnf": {"x5t#S256": thumbprint("alice")},
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


# The audit


async def test_what_is_issued_is_in_the_audit(world: World) -> None:
    by_certificate = await world.get(cert="alice")
    by_password = await world.password()
    refreshed = await world.post("refresh", form={"refresh_token": by_password.body["refresh_token"]})
    await world.post("revoke", form={"token": refreshed.body["access_token"]}, cert="root")
    entries = await world.audited()
    assert [(entry.event, entry.client_id, entry.token_id) for entry in entries] == [
        ("token_issued", "alice", by_certificate.claims["jti"]),
        ("login", "alice", by_password.claims["jti"]),
        ("token_issued", "alice", by_password.claims["jti"]),
        ("token_refreshed", "alice", refreshed.claims["jti"]),
        ("token_revoked", "root", refreshed.claims["jti"]),
    ]
    for entry in entries:
        assert entry.status is AuditStatus.OK
        assert (entry.tenant_id, entry.address, entry.user_agent) == ("default", "192.0.2.1", "test/1")
        assert entry.request_id == "req-1"
    assert entries[0].certificate_thumbprint == thumbprint("alice")
    assert entries[-1].target == "alice"


async def test_who_is_refused_is_in_the_audit_with_the_name_that_was_claimed(world: World) -> None:
    refresh = (await world.password()).body["refresh_token"]
    await world.get(basic=("nobody", "x"))
    await world.post(form={"username": "alice", "password": "x"})
    await world.get(cert="stranger")
    await world.get(basic=("alice", PASSWORD), cert="bob")
    await world.change("alice", disabled_at=CREATED)
    await world.post("refresh", form={"refresh_token": refresh})
    entries = await world.audited("auth_failed")
    assert [(entry.client_id, entry.reason) for entry in entries] == [
        ("nobody", "invalid_credentials"),
        ("alice", "invalid_credentials"),
        (None, "certificate_unmapped"),
        ("alice", "certificate_mismatch"),
        ("alice", "client_disabled"),
    ]
    assert {entry.status for entry in entries} == {AuditStatus.FAILED}
    assert {entry.address for entry in entries} == {"192.0.2.1"}
    assert {entry.user_agent for entry in entries} == {"test/1"}


async def test_no_secret_reaches_the_audit_or_the_store(world: World, tmp_path: Path) -> None:
    body = (await world.password()).body
    await world.get(basic=("alice", "Wrong-Horse-8"))
    await world.audited()
    await world.stores.close()
    content = everything_in(tmp_path)
    for secret in (PASSWORD, "Wrong-Horse-8", *body["access_token"].split(".")[1:], body["refresh_token"]):
        assert secret.encode() not in content


async def test_no_audit_no_token(world: World) -> None:
    token = (await world.get(cert="alice")).body["access_token"]
    refresh = (await world.password()).body["refresh_token"]
    failing: Any = FailingAudit()
    world.use_audit(Audit(failing, OnAuditFailure.REFUSE, now=world.clock, monotonic=world.clock))
    for answer in (
        await world.get(cert="alice"),
        await world.password(),
        await world.post("refresh", form={"refresh_token": refresh}),
        await world.post("revoke", form={"token": token}, cert="alice"),
    ):
        assert answer.error == (503, "temporarily_unavailable", "store_unavailable")
    assert world.works(token, "alice"), "what could not be audited was not done"
    world.use_audit(Audit(failing, OnAuditFailure.LOG, now=world.clock, monotonic=world.clock))
    assert (await world.get(cert="alice")).status == 200


async def test_a_store_that_takes_no_writes_gives_no_token(world: World) -> None:
    await world.stores.close()
    answer = await world.get(cert="alice")
    assert answer.error == (503, "temporarily_unavailable", "store_unavailable")


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
    response = oauth_error(deny, "req-1", invalid_grant=invalid_grant)
    body = json.loads(response.body)
    assert body["error"] in OAUTH_ERRORS
    assert body["error_description"] == "Say 'what' to do ' ' next."
    assert body["reason"] == reason
    assert 400 <= response.status < 600
    assert (response.status in {401, 403}) == ("WWW-Authenticate" in response.headers)
