"""Tenants, their administrators and the platform's: nothing crosses. Through the real process and real TLS."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.identity.totp import STEP, code_at

PASSWORD = "Correct-Horse-7-Battery"
ROLES = """
[roles]
admin = ["*:*"]
reader = ["files:read"]
helpdesk = ["clients:read", "clients:write", "tokens:read", "tokens:write", "audit:read"]
"""
TENANTS = ("red", "blue")
MEMBERS = ("boss", "help", "joe")


def prepare(home: Any) -> None:
    """Two tenants with an administrator, a help desk and a member each; ``root`` is the platform's."""
    home.configure(ROLES, settings={"accounts": {"register": "invitation"}})
    for tenant in TENANTS:
        home.cli("tenants", "add", tenant)
        for member, role in zip(MEMBERS, ("admin", "helpdesk", "reader"), strict=True):
            home.client(f"{tenant}-{member}", "--tenant", tenant, "--role", role, password=PASSWORD)
    home.cli("clients", "add", "plain", "--role", "admin", "--password-stdin", stdin=f"{PASSWORD}\n")


def _certificate(home: Any, name: str) -> Path:
    return Path(home.folder / "clients" / name)


def _token(caller: Any, served: Any, name: str, password: str = PASSWORD) -> str:
    answer = caller(served).ask(
        "POST",
        "/auth/token",
        json.dumps({"username": name, "password": password}),
        {"Content-Type": "application/json"},
    )
    assert answer.status == 200, answer
    token: str = answer.json["access_token"]
    return token


def _send(connection: Any, method: str, path: str, body: Any = None, **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        sent["Content-Type"] = "application/json"
    return connection.ask(method, path, None if body is None else json.dumps(body), sent)


def test_a_client_of_a_tenant_that_nobody_added_is_refused(home: Any) -> None:
    refused = home.cli("clients", "add", "eve", "--tenant", "green", check=False)
    assert refused.returncode == 1
    assert "there is no tenant 'green'" in refused.stderr
    assert "default" in {tenant["tenant_id"] for tenant in home.json("tenants", "list")["tenants"]}


def test_a_disabled_tenant_is_shut_out_within_a_second_also_on_open_connections(
    home: Any, caller: Any
) -> None:
    served = home.serve()
    by_token = caller(served, token=_token(caller, served, "red-boss"))
    by_certificate = caller(served, _certificate(home, "red-joe"))
    other = caller(served, _certificate(home, "blue-joe"))
    assert by_token.ask("GET", "/audit").status == 200
    assert by_certificate.ask("GET", "/auth/me").status == 200
    home.cli("tenants", "disable", "red")
    time.sleep(1)
    assert by_token.ask("GET", "/audit").json["reason"] == "client_disabled"
    answer = by_certificate.ask("GET", "/auth/me")
    assert (answer.status, answer.json["reason"]) == (401, "client_disabled")
    assert answer.headers["connection"] == "close"
    secret = base64.b64encode(f"red-boss:{PASSWORD}".encode()).decode()
    refused = caller(served).ask("GET", "/auth/token", headers={"Authorization": f"Basic {secret}"})
    assert refused.status == 401
    assert other.ask("GET", "/auth/me").status == 200
    home.cli("tenants", "enable", "red")
    assert by_token.ask("GET", "/audit").status == 200


def test_revoking_does_not_tell_which_tokens_another_tenant_has(home: Any, caller: Any) -> None:
    served = home.serve()
    boss = caller(served, token=_token(caller, served, "red-boss"))
    other = caller(served, token=_token(caller, served, "blue-boss"))
    theirs = _send(other, "GET", "/auth/me").json["token_id"]
    for token_id in (theirs, "0" * 32):
        answer = _send(boss, "POST", "/auth/revoke", {"token_id": token_id})
        assert (answer.status, answer.json) == (200, {})
    assert _send(other, "GET", "/auth/me").status == 200, "and it is not revoked"


def test_x_tenant_id_must_agree_with_the_identity(home: Any, caller: Any) -> None:
    served = home.serve()
    boss = caller(served, token=_token(caller, served, "red-boss"))
    assert _send(boss, "GET", "/auth/me", X_Tenant_ID="red").status == 200
    for path in ("/auth/me", "/audit", "/admin/api/clients"):
        refused = _send(boss, "GET", path, X_Tenant_ID="blue")
        assert (refused.status, refused.json["reason"]) == (403, "tenant_mismatch"), path
    assert _send(caller(served), "GET", "/auth/me", X_Tenant_ID="red").status == 401
    wrong = _send(
        caller(served),
        "POST",
        "/auth/token",
        {"username": "red-boss", "password": PASSWORD},
        X_Tenant_ID="blue",
    )
    assert wrong.status == 403
    root = caller(served, token=_token(caller, served, "root"))
    seen = _send(root, "GET", "/admin/api/clients", X_Tenant_ID="blue").json["clients"]
    assert {client["tenant_id"] for client in seen} == {"blue"}
    assert len(_send(root, "GET", "/admin/api/clients").json["clients"]) > len(seen)
    assert {e["tenant_id"] for e in _send(root, "GET", "/audit", X_Tenant_ID="blue").json["entries"]} == {
        "blue"
    }
    assert _send(root, "GET", "/auth/me", X_Tenant_ID="blue").status == 403
    entries = _send(root, "GET", "/audit?event=access_denied&client_id=red-boss").json["entries"]
    assert "tenant_mismatch" in {entry["reason"] for entry in entries}


def test_roles_change_while_running_and_reach_tokens_that_are_out(home: Any, caller: Any) -> None:
    served = home.serve()
    home.cli("roles", "add", "auditor", "--tenant", "red", "--permission", "files:read")
    home.cli("clients", "roles", "red-joe", "--role", "auditor")
    joe = caller(served, token=_token(caller, served, "red-joe"))
    assert joe.ask("GET", "/audit").status == 403
    home.cli("roles", "set", "auditor", "--tenant", "red", "--permission", "audit:read")
    assert joe.ask("GET", "/audit").status == 200
    home.cli("roles", "set", "auditor", "--tenant", "red", "--permission", "files:read")
    assert joe.ask("GET", "/audit").status == 403
    for words in (("roles", "set", "admin", "--permission", "a:b"), ("roles", "remove", "admin")):
        refused = home.cli(*words, check=False)
        assert refused.returncode == 1
        assert "in the configuration, which cannot be changed while running" in refused.stderr
    still = home.cli("roles", "remove", "auditor", "--tenant", "red", check=False)
    assert "take it from them first" in still.stderr
    other = home.cli("clients", "roles", "blue-joe", "--add-role", "auditor", check=False)
    assert "no such role" in other.stderr


def test_the_admin_api_makes_changes_lists_and_erases(home: Any, caller: Any) -> None:
    served = home.serve()
    boss = caller(served, token=_token(caller, served, "red-boss"))
    made = _send(boss, "POST", "/admin/api/clients", {"client_id": "new/one", "roles": ["reader"]})
    assert (made.status, made.json["tenant_id"], made.json["roles"]) == (201, "red", ["reader"])
    path = f"/admin/api/clients/{quote('new/one', safe='')}"
    assert _send(boss, "POST", "/admin/api/clients", {"client_id": "new/one"}).status == 409
    changed = _send(boss, "PATCH", path, {"disabled": True, "permissions": ["files:write"]})
    assert changed.status == 200
    assert changed.json["disabled_at"] is not None
    assert changed.json["roles"] == ["reader"]
    unknown = _send(boss, "PATCH", path, {"tenant_id": "blue"})
    assert (unknown.status, unknown.json["reason"]) == (400, "bad_request")
    first = _send(boss, "GET", "/admin/api/clients?limit=2").json
    rest = _send(boss, "GET", f"/admin/api/clients?limit=100&cursor={quote(first['next_cursor'])}").json
    names = [client["client_id"] for client in first["clients"] + rest["clients"]]
    assert names == ["new/one", "red-boss", "red-help", "red-joe"]
    assert rest["next_cursor"] is None
    assert _send(boss, "DELETE", path).status == 204
    assert _send(boss, "GET", path).status == 404
    entries = _send(boss, "GET", "/audit?event=admin_change").json["entries"]
    assert ("red-boss", "clients.disable") in {(e["client_id"], e["method"]) for e in entries}
    role = _send(boss, "POST", "/admin/api/roles", {"role": "extra", "permissions": ["files:read"]})
    assert (role.status, role.json["tenant_id"]) == (201, "red")
    assert _send(boss, "PATCH", "/admin/api/roles/extra", {"permissions": ["files:*"]}).status == 200
    assert _send(boss, "DELETE", "/admin/api/roles/red%2Fextra").status == 204
    tokens = _send(boss, "GET", "/admin/api/tokens?client_id=red-boss").json["tokens"]
    assert _send(boss, "DELETE", f"/admin/api/tokens/{tokens[-1]['token_id']}").status == 204
    _token(caller, served, "red-joe")
    help_desk = caller(served, _certificate(home, "red-help"))
    assert help_desk.ask("GET", "/admin/api/roles").status == 403
    assert help_desk.ask("GET", "/admin/api/clients").status == 200


def test_an_administrator_of_a_tenant_invites(home: Any, caller: Any) -> None:
    served = home.serve()
    boss = caller(served, token=_token(caller, served, "red-boss"))
    made = _send(boss, "POST", "/admin/api/invitations", {"roles": ["reader"], "name": "jim", "days": 1})
    assert (made.status, made.json["tenant_id"], made.json["created_by"]) == (201, "red", "red-boss")
    code = made.json["code"]
    shown = _send(boss, "GET", f"/admin/api/invitations/{made.json['invitation_id']}")
    assert shown.json == {key: value for key, value in made.json.items() if key != "code"}
    jim = {"username": "jim", "password": PASSWORD, "invitation": code}
    assert _send(caller(served), "POST", "/auth/register", jim).status == 201
    assert _send(boss, "GET", "/admin/api/clients/jim").json["roles"] == ["reader"]
    assert code not in json.dumps(_send(boss, "GET", "/audit?event=admin_change").json)

    above = _send(boss, "POST", "/admin/api/invitations", {"roles": ["admin"]})
    path = f"/admin/api/invitations/{above.json['invitation_id']}"
    help_desk = caller(served, token=_token(caller, served, "red-help"))
    for method, target, body in (
        ("POST", "/admin/api/invitations", {"roles": ["admin"]}),
        ("DELETE", path, None),
    ):
        refused = _send(help_desk, method, target, body)
        assert (refused.status, refused.json["reason"]) == (403, "permission_denied")
    for body in ({"tenant_id": "blue"}, {"roles": ["nowhere"]}):
        assert _send(boss, "POST", "/admin/api/invitations", body).status in {404, 409}
    assert _send(boss, "GET", "/admin/api/invitations?limit=1").json["next_cursor"] is not None
    home.cli("clients", "erase", "red-boss")
    assert {each["created_by"] for each in home.json("invitations", "list")["invitations"]} == {"erased"}
    root = caller(served, token=_token(caller, served, "root"))
    assert _send(root, "DELETE", path).status == 204
    assert _send(root, "GET", path).status == 404


def test_an_administrator_of_a_tenant_sees_to_its_clients_api_keys(home: Any, caller: Any) -> None:
    served = home.serve()
    boss = caller(served, token=_token(caller, served, "red-boss"))
    wanted = {"client_id": "red-joe", "name": "ci", "scopes": ["files:read"], "expires_in": "30d"}
    made = _send(boss, "POST", "/admin/api/api-keys", wanted)
    assert (made.status, made.json["client_id"], made.json["scopes"]) == (201, "red-joe", ["files:read"])

    def status(key: Any) -> int:
        answer = _send(caller(served), "GET", "/auth/me", X_API_Key=key.json["api_key"])
        return int(answer.status)

    assert status(made) == 200
    path = f"/admin/api/api-keys/{made.json['key_id']}"
    rotated = _send(boss, "POST", f"{path}/rotate", {"overlap": 0, "expires_in": "1d"})
    assert (rotated.status, rotated.json["name"], status(made), status(rotated)) == (201, "ci", 401, 200)
    path = f"/admin/api/api-keys/{rotated.json['key_id']}"
    [listed] = _send(boss, "GET", "/admin/api/api-keys?client_id=red-joe").json["api_keys"]
    assert listed == _send(boss, "GET", path).json
    assert rotated.json["api_key"] not in json.dumps(listed)

    help_desk = caller(served, token=_token(caller, served, "red-help"))
    mighty = _send(boss, "POST", "/admin/api/api-keys", {"client_id": "red-boss", "name": "x"})
    theirs = f"/admin/api/api-keys/{mighty.json['key_id']}"
    for method, target, body in (
        ("POST", "/admin/api/api-keys", {"client_id": "red-boss", "name": "x"}),
        ("POST", f"{theirs}/rotate", {}),
        ("DELETE", theirs, None),
    ):
        refused = _send(help_desk, method, target, body)
        assert (refused.status, refused.json["reason"]) == (403, "permission_denied"), target
    with_key = {"X_API_Key": mighty.json["api_key"]}
    own = _send(
        caller(served), "POST", "/admin/api/api-keys", {"client_id": "red-boss", "name": "y"}, **with_key
    )
    assert (own.status, own.json["reason"]) == (403, "permission_denied"), (
        "a key makes its owner no other key"
    )
    for body in (
        wanted | {"expires_in": "0d"},
        wanted | {"expires_in": 10**12},
        wanted | {"name": ""},
        {"client_id": "red-joe"},
    ):
        assert _send(boss, "POST", "/admin/api/api-keys", body).status == 400, body
    for client_id in ("blue-joe", "nobody"):
        assert _send(boss, "POST", "/admin/api/api-keys", wanted | {"client_id": client_id}).status == 404
    assert _send(boss, "DELETE", path).status == 204
    assert (status(rotated), _send(boss, "GET", path).status) == (401, 404)
    entries = _send(boss, "GET", "/audit?event=admin_change&client_id=red-boss").json["entries"]
    assert {"api_keys.add", "api_keys.rotate", "api_keys.revoke"} <= {entry["method"] for entry in entries}


def test_an_administrator_of_a_tenant_changes_certificates(home: Any, caller: Any) -> None:
    served = home.serve()
    boss = caller(served, token=_token(caller, served, "red-boss"))
    path = "/admin/api/clients/red-joe"
    changed = _send(boss, "PATCH", path, {"certificate": "joe-2", "require_certificate": True}).json
    assert (changed["certificate"], changed["require_certificate"]) == ("joe-2", True)
    assert _send(boss, "PATCH", path, {"disabled": False}).json == changed
    for target, body, status in (
        (path, {"certificate": None}, 409),
        (path, {"certificate": "blue-joe"}, 409),
        (path, {"certificate": 'a"b'}, 400),
        (path, {"require_certificate": None}, 400),
        ("/admin/api/clients/red-boss", {"certificate": "boss-2"}, 403),
        ("/admin/api/clients/blue-joe", {"certificate": "joe-3"}, 404),
    ):
        refused = _send(boss, "PATCH", target, body)
        assert refused.status == status, (body, refused)
        assert "blue" not in refused.json["detail"].replace("of blue-joe are", ""), "whose it is, is not told"
    assert _send(boss, "GET", path).json == changed
    cleared = _send(boss, "PATCH", path, {"certificate": None, "require_certificate": False}).json
    assert (cleared["certificate"], cleared["require_certificate"]) == (None, False)


def test_an_administrator_of_a_tenant_helps_who_lost_a_phone(home: Any, caller: Any) -> None:
    served = home.serve()

    def enrol(name: str) -> Any:
        one = caller(served, token=_token(caller, served, name))
        secret = base64.b32decode(_send(one, "POST", "/auth/mfa/enrol").json["secret"])
        body = {"code": code_at(secret, int(time.time()) // STEP)}
        assert _send(one, "POST", "/auth/mfa/confirm", body).status == 200
        return one

    joe, boss = enrol("red-joe"), enrol("red-boss")
    assert _send(boss, "GET", "/admin/api/clients/red-joe").json["mfa"]["recovery_codes_left"] == 10
    other, help_desk = (
        caller(served, token=_token(caller, served, name)) for name in ("blue-boss", "red-help")
    )
    for whose, who, status in (
        ("red-joe", joe, 403),
        ("red-joe", other, 404),
        ("red-boss", help_desk, 403),
        ("red-boss", boss, 403),
    ):
        refused = _send(who, "DELETE", f"/admin/api/second-factors/{whose}")
        assert refused.status == status, (whose, refused)
    assert _send(boss, "GET", "/auth/me").json["mfa"] is not None, "one's own takes password and code"
    assert _send(boss, "DELETE", "/admin/api/second-factors/red-joe").status == 204
    assert _send(boss, "GET", "/admin/api/clients/red-joe").json["mfa"] is None
    _token(caller, served, "red-joe")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/admin/api/clients/plain", {"permissions": ["platform:*"]}),
        ("PATCH", "/admin/api/clients/root", {"password": "Other-Horse-7-Battery"}),
        ("PATCH", "/admin/api/clients/root", {"disabled": True}),
        ("DELETE", "/admin/api/clients/root", None),
        ("POST", "/admin/api/clients", {"client_id": "x", "permissions": ["platform:audit"]}),
        ("POST", "/admin/api/roles", {"role": "x", "tenant_id": None, "permissions": ["a:b"]}),
        ("POST", "/admin/api/roles", {"role": "x", "tenant_id": "default", "permissions": ["platform:*"]}),
        ("POST", "/admin/api/tenants", {"tenant_id": "x"}),
        ("PATCH", "/admin/api/tenants/default", {"disabled": True}),
        ("PATCH", "/admin/api/roles/admin", {"permissions": []}),
        ("GET", "/admin/api/exports/root", None),
        ("POST", "/admin/api/api-keys", {"client_id": "root", "name": "x"}),
        ("DELETE", "/admin/api/second-factors/root", None),
    ],
)
def test_nobody_rises_above_themselves(
    home: Any, caller: Any, method: str, path: str, body: dict[str, Any] | None
) -> None:
    served = home.serve()
    plain = caller(served, token=_token(caller, served, "plain"))
    answer = _send(plain, method, path, body)
    assert answer.status in {403, 409}, answer
    root = home.json("clients", "show", "root")["client"]
    assert (root["disabled_at"], root["permissions"]) == (None, ["platform:*"])


def test_who_was_erased_is_refused_and_nowhere_named(home: Any, caller: Any, wait_until: Any) -> None:
    served = home.serve()
    certified = caller(served, _certificate(home, "red-joe"))
    by_token = caller(served, token=_token(caller, served, "red-joe"))
    assert certified.ask("GET", "/auth/me").status == 200
    held = json.loads(home.cli("clients", "export", "red-joe").stdout)
    assert held["client"]["password_hash"] == "[set]"
    assert {entry["client_id"] for entry in held["audit"]} == {"red-joe"}
    assert held["tokens"]
    assert held["sessions"]
    home.cli("clients", "erase", "red-joe")
    for connection in (certified, by_token, caller(served, _certificate(home, "red-joe"))):
        answer = connection.ask("GET", "/auth/me")
        assert answer.status == 401, answer
    assert home.cli("clients", "add", "red-joe", check=False).returncode == 1
    taken = home.cli("clients", "add", "joe2", "--certificate", "red-joe", check=False)
    assert "are somebody else's" in taken.stderr
    home.cli("backup", str(home.folder / "after.tar"))
    assert served.stop() == 0
    again = home.serve()  # which knows of it by the tombstone alone
    boss = caller(again, token=_token(caller, again, "red-boss"))
    for path in ("clients/red-joe", "exports/red-joe", "clients/red%2Djoe"):
        assert _send(boss, "GET", f"/admin/api/{path}").status == 404
        assert caller(again).ask("GET", f"/admin/api/{path}").status == 401
    assert again.stop() == 0
    verified = home.cli("audit", "verify")
    assert verified.returncode == 0
    files = [path for path in (home.folder / "persistence").rglob("*") if path.is_file()]
    for path in [*files, home.folder / "after.tar"]:
        assert b"red-joe" not in path.read_bytes(), path
    entries = home.json("audit", "query", "--limit", "1000")["entries"]
    assert any(str(entry["client_id"]).startswith("erased-") for entry in entries)


@pytest.mark.timeout(400)
def test_nothing_crosses_from_one_tenant_to_the_other(home: Any, caller: Any) -> None:
    """Tenants x roles x objects: what a member of one asks for never shows or changes what is another's."""
    served = home.serve()
    tokens = {
        f"{tenant}-{member}": _token(caller, served, f"{tenant}-{member}")
        for tenant in TENANTS
        for member in MEMBERS
    }
    connections = {name: caller(served, token=token) for name, token in tokens.items()}
    home.cli("roles", "add", "red-role", "--tenant", "red", "--permission", "files:read")
    home.cli("roles", "add", "blue-role", "--tenant", "blue", "--permission", "files:read")
    keys, invitations = (
        {tenant: home.json(noun, "add", *words(tenant)) for tenant in TENANTS}
        for noun, words in (
            ("api-keys", lambda tenant: (f"{tenant}-joe", "--name", "x")),
            ("invitations", lambda tenant: ("--tenant", tenant)),
        )
    )
    nouns = ("clients", "tenants", "roles", "api-keys", "invitations")
    before = {noun: home.json(noun, "list") for noun in nouns}
    ids = {
        tenant: {
            token["token_id"]
            for token in home.json("tokens", "list")["tokens"]
            if token["tenant_id"] == tenant
        }
        for tenant in TENANTS
    }
    bodies = st.sampled_from(
        [
            {"disabled": True},
            {"roles": ["admin"]},
            {"password": "Other-Horse-7-Battery"},
            {"permissions": ["*:*"]},
            {"name": "mine"},
        ]
    )

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        tenant=st.sampled_from(TENANTS),
        member=st.sampled_from(MEMBERS),
        method=st.sampled_from(["GET", "PATCH", "DELETE"]),
        noun=st.sampled_from(
            [
                *("clients", "tenants", "roles", "tokens", "sessions", "exports"),
                *("api-keys", "invitations", "second-factors"),
            ]
        ),
        victim=st.sampled_from(MEMBERS),
        header=st.sampled_from([None, "own", "other"]),
        body=bodies,
        data=st.data(),
    )
    def never(
        tenant: str,
        member: str,
        method: str,
        noun: str,
        victim: str,
        header: str | None,
        body: Any,
        data: Any,
    ) -> None:
        other = next(each for each in TENANTS if each != tenant)
        things = {
            "clients": f"{other}-{victim}",
            "exports": f"{other}-{victim}",
            "second-factors": f"{other}-{victim}",
            "api-keys": keys[other]["key_id"],
            "invitations": invitations[other]["invitation"]["invitation_id"],
            "tenants": other,
            "roles": f"{other}/{other}-role",
            "tokens": data.draw(st.sampled_from(sorted(ids[other]))),
            "sessions": "unknown",
        }
        connection = connections[f"{tenant}-{member}"]
        named = {} if header is None else {"X_Tenant_ID": tenant if header == "own" else other}
        path = f"/admin/api/{noun}/{quote(things[noun], safe='')}"
        answer = _send(connection, method, path, body if method == "PATCH" else None, **named)
        assert answer.status in {400, 403, 404, 405}, (path, answer)
        for listed in (f"/admin/api/{noun}", "/audit?limit=1000", f"/audit?tenant_id={other}"):
            shown = _send(connection, "GET", listed, **named)
            if shown.status == 200:
                text = shown.body.decode()
                assert f'"{other}"' not in text, (listed, text)
                assert f'"{other}-' not in text, (listed, text)
        for endpoint in ("/auth/introspect", "/auth/revoke"):
            told = connection.form(endpoint, token=tokens[f"{other}-{victim}"])
            assert told.status == 403 or told.json == {"active": False}, told

    never()
    after = {noun: home.json(noun, "list") for noun in nouns}
    assert after == before
    assert all(connections[f"{tenant}-boss"].ask("GET", "/auth/me").status == 200 for tenant in TENANTS)


def test_an_invitation_is_to_a_tenant_that_is_there_with_roles_that_are_there(home: Any) -> None:
    home.cli("roles", "add", "auditor", "--tenant", "red", "--permission", "audit:read")
    home.cli("invitations", "add", "--tenant", "red", "--role", "auditor")
    for words, told in (
        (("--tenant", "green"), "there is no tenant"),
        (("--tenant", "blue", "--role", "auditor"), "there is no role"),
    ):
        refused = home.cli("invitations", "add", *words, check=False)
        assert refused.returncode == 1
        assert told in refused.stderr


def test_what_another_tenant_has_is_as_unknown_as_what_nobody_has(home: Any, caller: Any) -> None:
    served = home.serve()
    _token(caller, served, "blue-joe")
    boss = caller(served, token=_token(caller, served, "red-boss"))
    theirs = boss.ask("GET", "/admin/api/tokens?client_id=blue-joe")
    nobodys = boss.ask("GET", "/admin/api/tokens?client_id=blue-jim")
    assert theirs.status == nobodys.status == 404
    assert theirs.json["reason"] == nobodys.json["reason"]
    assert "blue" not in theirs.json["detail"]
    assert boss.ask("GET", "/admin/api/tokens?client_id=red-joe").json["tokens"] == []


@pytest.mark.parametrize(
    "path",
    [
        "exports/red-joe?client_id=red-boss",
        "exports/red-joe?cursor=a&cursor=b",
        "exports/red-joe?cursor=%ff",
        "clients?limit=1&limit=2",
        "clients?tenant_id=blue",
        "tokens?cursor=" + "9" * 30,
    ],
)
def test_a_query_that_is_not_one_is_refused(home: Any, caller: Any, path: str) -> None:
    boss = caller(served := home.serve(), token=_token(caller, served, "red-boss"))
    answer = boss.ask("GET", f"/admin/api/{path}")
    assert (answer.status, answer.json["reason"]) == (400, "bad_request"), answer
    assert boss.ask("GET", "/admin/api/exports/red-joe").json["client"]["client_id"] == "red-joe"
