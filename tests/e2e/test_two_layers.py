"""The certificate names a client, the token names a client: they must agree. Through the real process and real TLS."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "Correct-Horse-7-Battery"
ROLES = """
[roles]
reader = ["genealogy:read"]
auditor = ["audit:read"]
"""
CONFIG = """
[[upstreams]]
name = "genealogy"
transport = "http"
url = "{url}"
prefix = "gen_"

[[tools]]
match = "gen_list_persons"
access = "public"

[[tools]]
match = "gen_find_person"
permissions = ["genealogy:read"]
"""


def prepare(home: Any) -> None:
    """Clients and their certificates."""
    home.configure(ROLES)
    home.client("alice", "--role", "reader", password=PASSWORD)
    home.client("bob", "--role", "reader")
    home.client("carol", "--role", "reader", "--require-certificate", password=PASSWORD)
    home.client("olga", "--role", "auditor")
    home.certificate("nobody")


@pytest.fixture(scope="module")
def upstream(start_shared: Callable[..., Any]) -> Any:
    return start_shared("examples/genealogy/mcp_server.py", "--port", "0")


@pytest.fixture
def door(home: Any, upstream: Any) -> Any:
    """A gateway with the genealogy server behind it."""
    home.configure(CONFIG.format(url=upstream.url))
    return home


def _certificate(home: Any, name: str) -> Path:
    return Path(home.folder / "clients" / name)


def _audit(caller: Any, served: Any, home: Any, **filters: str) -> list[dict[str, Any]]:
    query = "&".join(f"{key}={value}" for key, value in filters.items())
    answer = caller(served, _certificate(home, "olga")).ask("GET", f"/audit?{query}")
    assert answer.status == 200, answer
    entries: list[dict[str, Any]] = answer.json["entries"]
    return entries


def _claims(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload, _ = token.split(".")
    decode = lambda part: json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))  # noqa: E731
    return decode(header), decode(payload)


def test_without_credentials_only_what_is_public(door: Any, caller: Any) -> None:
    served = door.serve()
    anonymous = caller(served)
    assert anonymous.tools() == ["gen_list_persons"]
    assert "result" in anonymous.call("gen_list_persons")
    for tool in ("gen_find_person", "gen_add_person", "no_such_tool"):
        error = anonymous.call(tool, {"name": "x"})["error"]
        assert (error["code"], error["message"]) == (-32602, f"Unknown tool: {tool}")
        assert "data" not in error
    denied = _audit(caller, served, door, status="denied", event="tool_call")
    assert {entry["tool_name"] for entry in denied} == {"gen_find_person", "gen_add_person", "no_such_tool"}


def test_a_certificate_alone_is_an_identity(door: Any, caller: Any) -> None:
    served = door.serve()
    alice = caller(served, _certificate(door, "alice"))
    listed = alice.rpc("tools/list").json["result"]["tools"]
    permissions = {tool["name"]: tool["_meta"]["ostiary/permissions"] for tool in listed}
    assert permissions == {"gen_list_persons": [], "gen_find_person": ["genealogy:read"]}
    assert "result" in alice.call("gen_find_person", {"name": "a"})
    entry = _audit(caller, served, door, client_id="alice", event="tool_call")[0]
    assert entry["tool_name"] == "gen_find_person"
    assert entry["status"] in {"ok", "error"}
    assert entry["duration_ms"] > 0
    assert entry["address"] == "127.0.0.1"


def test_a_token_by_certificate_is_bound_to_it(door: Any, caller: Any) -> None:
    served = door.serve()
    alice = caller(served, _certificate(door, "alice"))
    answer = alice.ask("GET", "/auth/token")
    assert answer.status == 200, answer
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json) >= {"access_token", "token_type", "expires_in", "scope"}
    assert "refresh_token" not in answer.json
    token = answer.json["access_token"]
    header, claims = _claims(token)
    assert header["typ"] == "at+jwt"
    assert header["kid"]
    assert set(claims) >= {
        "iss", "aud", "sub", "client_id", "username", "user_id", "tenant_id", "roles", "scope", "jti", "type",
        "iat", "nbf", "exp", "auth_time", "cnf",
    }  # fmt: skip
    assert claims["client_id"] == "alice"
    assert claims["type"] == "access"
    assert claims["exp"] - claims["iat"] == 3600

    with_certificate = caller(served, _certificate(door, "alice"), token)
    assert "gen_find_person" in with_certificate.tools()
    for other in (None, _certificate(door, "bob"), _certificate(door, "nobody")):
        refused = caller(served, other, token).rpc("tools/list")
        assert refused.status == 401
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
        assert "resource_metadata=" in refused.headers["www-authenticate"]
    reissued = door.certificate("alice2", "--san", "spiffe://example.org/alice")
    assert caller(served, reissued, token).rpc("tools/list").status == 401
    failures = _audit(caller, served, door, event="auth_failed")
    assert len(failures) == 4
    assert all(entry["client_id"] == "alice" and entry["status"] == "failed" for entry in failures)


def test_an_unbound_token_is_good_with_its_clients_certificate_or_none(door: Any, caller: Any) -> None:
    served = door.serve()
    answer = caller(served).form("/auth/token", username="alice", password=PASSWORD)
    assert answer.status == 200, answer
    token = answer.json["access_token"]
    assert "cnf" not in _claims(token)[1]
    assert "refresh_token" in answer.json
    assert "gen_find_person" in caller(served, None, token).tools()
    assert "gen_find_person" in caller(served, _certificate(door, "alice"), token).tools()
    refused = caller(served, _certificate(door, "bob"), token).rpc("tools/list")
    assert (refused.status, refused.json["reason"]) == (401, "certificate_mismatch")


def test_a_client_may_require_its_certificate(door: Any, caller: Any) -> None:
    served = door.serve()
    refused = caller(served).form("/auth/token", username="carol", password=PASSWORD)
    assert refused.status in {400, 401}
    carol = caller(served, _certificate(door, "carol"))
    token = carol.form("/auth/token", username="carol", password=PASSWORD).json["access_token"]
    assert caller(served, _certificate(door, "carol"), token).rpc("tools/list").status == 200
    assert caller(served, None, token).rpc("tools/list").status == 401


def test_a_password_over_anothers_certificate_is_refused(door: Any, caller: Any) -> None:
    served = door.serve()
    refused = caller(served, _certificate(door, "bob")).form(
        "/auth/token", username="alice", password=PASSWORD
    )
    assert refused.status in {400, 401}
    assert "access_token" not in refused.json
    assert _audit(caller, served, door, event="auth_failed")[0]["reason"] == "certificate_mismatch"


def test_a_certificate_that_maps_to_nobody_is_public_only_and_noted(door: Any, caller: Any) -> None:
    served = door.serve()
    stranger = caller(served, _certificate(door, "nobody"))
    assert stranger.tools() == ["gen_list_persons"]
    noted = _audit(caller, served, door, event="auth_failed")
    assert [entry["reason"] for entry in noted] == ["certificate_unmapped"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer rubbish"}, 401),
        ({"Authorization": "Bearer a.b.c"}, 401),
        ({"Authorization": "Bearer " + "a" * 7000}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Basic YWxpY2U6eA=="}, 401),
        ({"Authorization": "Negotiate abc"}, 401),
        ({"X-API-Key": "ostk_nonsense"}, 401),
        ({"Authorization": "Bearer a.b.c", "authorization": "Bearer d.e.f"}, 400),
    ],
)
def test_a_credential_that_is_wrong_never_falls_back_to_anonymous(
    door: Any, caller: Any, headers: dict[str, str], status: int
) -> None:
    served = door.serve()
    for certificate in (None, _certificate(door, "alice")):
        one = caller(served, certificate)
        body = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
        answer = one.ask("POST", "/mcp", body, {"Content-Type": "application/json", **headers})
        assert answer.status == status, answer
        assert answer.json["reason"]
        assert answer.json["request_id"] == answer.headers["x-request-id"]
        assert "server" not in answer.headers


def test_a_tampered_or_foreign_token_is_refused(door: Any, caller: Any) -> None:
    served = door.serve()
    tokens = caller(served).form("/auth/token", username="alice", password=PASSWORD).json
    header, payload, signature = tokens["access_token"].split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    forged = base64.urlsafe_b64encode(
        json.dumps({**_claims(tokens["access_token"])[1], "client_id": "root"}).encode()
    )
    for token in (
        f"{header}.{payload}.{signature[:-2]}AA",
        f"{header}.{forged.rstrip(b'=').decode()}.{signature}",
        f"{none}.{payload}.",
        f"{header}.{payload}.{signature}=",
        tokens["refresh_token"],
    ):
        answer = caller(served, None, token).rpc("tools/list")
        assert answer.status == 401, token
    reasons = {entry["reason"] for entry in _audit(caller, served, door, event="auth_failed")}
    assert reasons >= {"token_signature", "token_type"}


def test_an_expired_token_says_so(door: Any, caller: Any) -> None:
    door.configure("", settings={"tokens": {"access_ttl": "1s"}})
    served = door.serve()
    alice = caller(served, _certificate(door, "alice"))
    alice.token = alice.ask("GET", "/auth/token").json["access_token"]
    assert alice.rpc("tools/list").status == 200
    time.sleep(2.1)
    answer = alice.rpc("tools/list")
    assert (answer.status, answer.json["reason"]) == (401, "token_expired")


def test_revocation_is_felt_on_an_open_connection(door: Any, caller: Any) -> None:
    served = door.serve()
    alice = caller(served, _certificate(door, "alice"))
    alice.token = alice.ask("GET", "/auth/token").json["access_token"]
    assert alice.rpc("tools/list").status == 200
    jti = _claims(alice.token)[1]["jti"]
    door.cli("tokens", "revoke", jti)
    answer = alice.rpc("tools/list")
    assert (answer.status, answer.json["reason"]) == (401, "token_revoked")
    assert [t["token_id"] for t in door.json("tokens", "list")["tokens"] if t["revoked_at"]] == [jti]


def test_a_disabled_client_is_refused_on_an_open_connection(door: Any, caller: Any) -> None:
    served = door.serve()
    alice = caller(served, _certificate(door, "alice"))
    assert "gen_find_person" in alice.tools()
    door.cli("clients", "disable", "alice")
    answer = alice.rpc("tools/list")
    assert (answer.status, answer.json["reason"]) == (401, "client_disabled")
    door.cli("clients", "enable", "alice")
    assert "gen_find_person" in caller(served, _certificate(door, "alice")).tools()


def test_refresh_gives_a_new_access_token_and_the_old_one_lives_on(door: Any, caller: Any) -> None:
    served = door.serve()
    anonymous = caller(served)
    first = anonymous.form("/auth/token", username="alice", password=PASSWORD).json
    second = anonymous.ask(
        "POST", "/auth/refresh", json.dumps({"refresh_token": first["refresh_token"]}),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    assert second.status == 200, second
    assert second.json["access_token"] != first["access_token"]
    for token in (first["access_token"], second.json["access_token"]):
        assert caller(served, None, token).rpc("tools/list").status == 200


def test_revoking_a_refresh_token_ends_its_family(door: Any, caller: Any) -> None:
    served = door.serve()
    anonymous = caller(served)
    pair = anonymous.form("/auth/token", username="alice", password=PASSWORD).json
    owner = caller(served, None, pair["access_token"])
    assert owner.form("/auth/revoke", token=pair["refresh_token"]).status == 200
    assert caller(served, None, pair["access_token"]).rpc("tools/list").status == 401
    refused = anonymous.form("/auth/token", grant_type="refresh_token", refresh_token=pair["refresh_token"])
    assert refused.status == 400
    assert refused.json["error"] == "invalid_grant"


def test_a_restart_keeps_tokens_revocations_and_audit(door: Any, caller: Any) -> None:
    served = door.serve()
    alice, bob = (caller(served, _certificate(door, name)) for name in ("alice", "bob"))
    kept = alice.ask("GET", "/auth/token").json["access_token"]
    revoked = bob.ask("GET", "/auth/token").json["access_token"]
    assert alice.call("gen_find_person", {"name": "a"})
    door.cli("tokens", "revoke", _claims(revoked)[1]["jti"])
    entries = _audit(caller, served, door, limit="1000")
    assert served.stop() == 0

    again = door.serve()
    assert caller(again, _certificate(door, "alice"), kept).rpc("tools/list").status == 200
    refused = caller(again, _certificate(door, "bob"), revoked).rpc("tools/list")
    assert (refused.status, refused.json["reason"]) == (401, "token_revoked")
    after = _audit(caller, again, door, limit="1000")
    assert [entry for entry in after if entry in entries] == entries


def test_an_untrusted_certificate_is_refused_in_the_handshake_and_seen(
    door: Any, caller: Any, tmp_path: Path
) -> None:
    import trustme

    served = door.serve()
    stranger = trustme.CA().issue_cert(common_name="alice")
    folder = tmp_path / "stranger"
    folder.mkdir()
    stranger.cert_chain_pems[0].write_to_path(folder / "stranger.pem")
    stranger.private_key_pem.write_to_path(folder / "stranger.key")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        caller(served, folder).rpc("tools/list")
    entry = _audit(caller, served, door, event="tls_refused")[0]
    assert entry["address"] == "127.0.0.1"
    assert "certificate_verify_failed" in entry["reason"]


def test_a_resumed_tls_session_is_not_let_in(door: Any, caller: Any) -> None:
    door.configure("", settings={"tls": {"minimum_version": "1.2"}})
    served = door.serve()
    context = door.tls(_certificate(door, "alice"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def ask(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        with (
            socket.create_connection(("localhost", served.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
        ):
            kept = secured.session
            try:
                secured.sendall(request)
                answer = secured.recv(4096)
                secured.unwrap()  # only what ended cleanly can be resumed
            except OSError:
                return b"", kept
            return answer, kept

    answer, session = ask(None)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert session is not None
    assert ask(session)[0] == b""
    assert ask(None)[0].startswith(b"HTTP/1.1 200 ")
    assert _audit(caller, served, door, event="tls_refused")[0]["reason"] == "session_resumed"


def test_another_certificate_holds_at_once(home: Any, caller: Any) -> None:
    served = home.serve()
    home.certificate("alice-2")
    old = caller(served, _certificate(home, "alice"))
    bound = caller(served, _certificate(home, "alice"), old.ask("GET", "/auth/token").json["access_token"])
    assert (old.ask("GET", "/auth/me").status, bound.ask("GET", "/auth/me").status) == (200, 200)
    changed = home.json("clients", "set-certificate", "alice", "--certificate", "alice-2")["client"]
    assert (changed["certificate"], changed["require_certificate"]) == ("alice-2", False)
    assert (old.ask("GET", "/auth/me").status, bound.ask("GET", "/auth/me").status) == (401, 401)
    new = caller(served, _certificate(home, "alice-2"))
    assert new.ask("GET", "/auth/me").json["client_id"] == "alice"

    login = {"username": "alice", "password": PASSWORD}
    answer = caller(served).form("/auth/token", grant_type="password", **login)
    loose = caller(served, token=answer.json["access_token"])
    for words, status in (("--require-certificate", 401), ("--no-require-certificate", 200)):
        home.cli("clients", "set-certificate", "alice", words)
        assert loose.ask("GET", "/auth/me").status == status, words
    home.cli("clients", "set-certificate", "alice", "--certificate", "none")
    assert new.ask("GET", "/auth/me").status == 401

    for words, told in (
        (("--certificate", "bob"), "certificates of bob belong to bob"),
        (("--require-certificate",), "cannot require one"),
        (("--certificate", "a b"), "no certificate can yield that id"),
        ((), "say what is to change"),
    ):
        refused = home.cli("clients", "set-certificate", "alice", *words, check=False)
        assert refused.returncode != 0
        assert told in refused.stderr
    entries = home.json("audit", "query", "--event", "admin_change", "--limit", "4")["entries"]
    assert [(each["method"], each["target"]) for each in reversed(entries)] == [
        ("clients.set_certificate", f"alice: certificate {said}")
        for said in ("alice-2", "alice-2, required", "alice-2", "none")
    ]
