"""API keys over real TLS: made, used, rotated, ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Answer, Caller, Home, Served

JSON = {"Content-Type": "application/json"}


def prepare(home: Home) -> None:
    home.client("alice", "--permission", "files:read", "--permission", "reports:read")
    home.client("bob")


@pytest.fixture
def served(home: Home) -> Served:
    return home.serve()


@pytest.fixture
def alice(home: Home, served: Served, caller: Any) -> Caller:
    made: Caller = caller(served, home.folder / "clients" / "alice")
    return made


def make(owner: Caller, **body: Any) -> Answer:
    return owner.ask("POST", "/auth/api-keys", json.dumps({"name": "ci", **body}), JSON)


def use(caller: Caller, key: str, path: str = "/auth/me", method: str = "GET") -> Answer:
    return caller.ask(method, path, None, {"X-API-Key": key})


def token_for(nobody: Caller, key: str) -> str:
    answer = nobody.ask(
        "POST",
        "/auth/token",
        "grant_type=client_credentials",
        {"X-API-Key": key, "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status == 200, answer
    token: str = answer.json["access_token"]
    return token


def test_a_key_stands_for_its_client(
    home: Home, served: Served, alice: Caller, caller: Any, wait_until: Callable[..., Any]
) -> None:
    answer = make(alice, scopes=["files:read"], expires_in=3600)
    assert answer.status == 201
    made = answer.json
    assert {"api_key", "key_id", "prefix"} <= made.keys()
    assert made["api_key"].startswith(made["prefix"])
    me = use(caller(served), made["api_key"])
    assert me.status == 200
    assert (me.json["client_id"], me.json["permissions"], me.json["proof"]) == (
        "alice",
        ["files:read"],
        "api_key",
    )
    [listed] = alice.ask("GET", "/auth/api-keys").json["api_keys"]
    assert {"key_id", "name", "prefix", "scopes", "expires_at", "last_used_at"} <= listed.keys()
    wait_until(lambda: alice.ask("GET", "/auth/api-keys").json["api_keys"][0]["last_used_at"])
    assert "api_key" not in listed
    served.stop()
    for file in (home.folder / "persistence").rglob("*"):
        if file.is_file():
            assert made["api_key"].encode() not in file.read_bytes(), file
    assert made["api_key"] not in served.log.read_text()
    again = home.serve()
    assert use(caller(again), made["api_key"]).status == 200


def test_a_key_that_is_no_good_is_no_anonymous_caller(served: Served, caller: Any) -> None:
    for key in ("x", "osk_00000000_" + "A" * 43, ""):
        answer = use(caller(served), key)
        assert (answer.status, answer.json["reason"]) == (401, "api_key_unknown"), key
        assert caller(served).ask("POST", "/mcp", "{}", {"X-API-Key": key, **JSON}).status == 401


def test_a_key_and_a_certificate_must_agree(home: Home, served: Served, alice: Caller, caller: Any) -> None:
    key = make(alice).json["api_key"]
    assert use(alice, key).status == 200
    answer = use(caller(served, home.folder / "clients" / "bob"), key)
    assert (answer.status, answer.json["reason"]) == (401, "certificate_mismatch")
    stranger = caller(served, home.certificate("stranger"))
    assert use(stranger, key).status == 401


def test_two_credentials_are_one_too_many(served: Served, alice: Caller, caller: Any) -> None:
    key = make(alice).json["api_key"]
    answer = caller(served).ask("GET", "/auth/me", None, {"X-API-Key": key, "Authorization": "Bearer x"})
    assert (answer.status, answer.json["reason"]) == (400, "ambiguous_credentials")


def test_a_disabled_clients_key_is_refused_at_once(
    home: Home, served: Served, alice: Caller, caller: Any
) -> None:
    key = make(alice).json["api_key"]
    nobody = caller(served)
    assert use(nobody, key).status == 200
    home.cli("clients", "disable", "alice")
    assert use(nobody, key).json["reason"] == "client_disabled"


def test_a_key_that_is_removed_ends_with_its_tokens(served: Served, alice: Caller, caller: Any) -> None:
    made = make(alice, scopes=["files:read"]).json
    nobody = caller(served)
    answer = nobody.ask(
        "POST",
        "/auth/token",
        "grant_type=client_credentials",
        {"X-API-Key": made["api_key"], "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status == 200, answer
    assert (answer.json["scope"], "refresh_token" in answer.json) == ("files:read", False)
    with_token = caller(served, token=answer.json["access_token"])
    assert with_token.ask("GET", "/auth/me").status == 200
    assert alice.ask("DELETE", f"/auth/api-keys/{made['key_id']}").status == 204
    assert use(nobody, made["api_key"]).json["reason"] == "api_key_unknown"
    assert with_token.ask("GET", "/auth/me").status == 401
    assert alice.ask("GET", "/auth/api-keys").json == {"api_keys": []}
    assert alice.ask("DELETE", f"/auth/api-keys/{made['key_id']}").status == 404


def test_a_token_for_a_key_is_within_its_scopes(served: Served, alice: Caller, caller: Any) -> None:
    key = make(alice, scopes=["files:read"]).json["api_key"]
    headers = {"X-API-Key": key, "Content-Type": "application/x-www-form-urlencoded"}
    nobody = caller(served)
    for form, error in (
        ("grant_type=client_credentials&scope=reports:read", "invalid_scope"),
        ("grant_type=client_credentials&client_id=bob", "invalid_client"),
        ("grant_type=password", "invalid_request"),
    ):
        assert nobody.ask("POST", "/auth/token", form, headers).json["error"] == error
    wrong = nobody.ask("POST", "/auth/token", "grant_type=client_credentials", {**headers, "X-API-Key": "x"})
    assert (wrong.status, wrong.json["error"]) == (401, "invalid_client")


def test_a_key_does_not_see_to_the_account(served: Served, alice: Caller, caller: Any) -> None:
    made = make(alice).json
    for method, path in (
        ("POST", "/auth/api-keys"),
        ("GET", "/auth/api-keys"),
        ("DELETE", f"/auth/api-keys/{made['key_id']}"),
        ("GET", "/auth/sessions"),
        ("POST", "/auth/change-password"),
    ):
        answer = use(caller(served), made["api_key"], path, method)
        assert (answer.status, answer.json["reason"]) == (403, "permission_denied"), path


def test_another_clients_keys_are_none(home: Home, served: Served, alice: Caller, caller: Any) -> None:
    made = make(alice).json
    bob = caller(served, home.folder / "clients" / "bob")
    assert bob.ask("GET", "/auth/api-keys").json == {"api_keys": []}
    assert bob.ask("DELETE", f"/auth/api-keys/{made['key_id']}").status == 404
    assert bob.ask("POST", f"/auth/api-keys/{made['key_id']}/rotate", "{}", JSON).status == 404
    assert use(caller(served), made["api_key"]).status == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"scopes": ["admin:all"]}, "invalid_scope"),
        ({"scopes": ["not a scope"]}, "invalid_scope"),
        ({"expires_in": 0}, "bad_request"),
        ({"expires_in": "soon"}, "bad_request"),
        ({"name": ""}, "bad_request"),
        ({"more": 1}, "bad_request"),
    ],
)
def test_what_is_no_key_to_be_had(alice: Caller, body: dict[str, Any], reason: str) -> None:
    answer = make(alice, **body)
    assert (answer.status, answer.json["reason"]) == (400, reason)


def test_a_key_expires(served: Served, alice: Caller, caller: Any, wait_until: Callable[..., Any]) -> None:
    key = make(alice, expires_in=1).json["api_key"]
    nobody = caller(served)
    answer = wait_until(lambda: (found := use(nobody, key)).status == 401 and found)
    assert answer.json["reason"] == "api_key_expired"


def test_rotation_lets_both_keys_in_for_a_while(
    served: Served, alice: Caller, caller: Any, wait_until: Callable[..., Any]
) -> None:
    old = make(alice, scopes=["files:read"]).json
    path = f"/auth/api-keys/{old['key_id']}/rotate"
    new = alice.ask("POST", path, json.dumps({"overlap": 2}), JSON)
    assert (new.status, new.json["scopes"]) == (201, ["files:read"])
    nobody = caller(served)
    assert use(nobody, old["api_key"]).status == 200
    assert use(nobody, new.json["api_key"]).status == 200
    wait_until(lambda: use(nobody, old["api_key"]).status == 401)
    assert use(nobody, new.json["api_key"]).status == 200


def test_a_client_that_requires_its_certificate_does_so_beside_a_key(
    home: Home, served: Served, caller: Any
) -> None:
    files = home.client("carol", "--require-certificate")
    carol = caller(served, files)
    key = make(carol).json["api_key"]
    assert use(carol, key).status == 200
    assert use(caller(served), key).json["reason"] == "certificate_required"


def test_what_is_done_with_keys_is_audited(home: Home, alice: Caller) -> None:
    made = make(alice, scopes=["files:read"]).json
    new = alice.ask("POST", f"/auth/api-keys/{made['key_id']}/rotate", "{}", JSON).json
    alice.ask("DELETE", f"/auth/api-keys/{new['key_id']}")
    entries = home.json("audit", "query", "--event", "admin_change", "--client", "alice")["entries"]
    assert [(entry["method"], entry["target"]) for entry in entries][:3] == [
        ("api_keys.revoke", new["key_id"]),
        ("api_keys.rotate", f"{made['key_id']}: {new['key_id']}: files:read; until {new['expires_at']}"),
        ("api_keys.add", f"{made['key_id']}: files:read; until {made['expires_at']}"),
    ]
    assert f"api_keys.revoke {new['key_id']}" in home.cli("audit", "query", "--client", "alice").stdout


def test_the_audit_says_which_key_it_was(home: Home, served: Served, alice: Caller, caller: Any) -> None:
    made = make(alice, scopes=["reports:read"]).json
    assert use(caller(served), made["api_key"], "/audit").status == 403
    token = token_for(caller(served), made["api_key"])
    assert caller(served, token=token).ask("GET", "/audit").status == 403
    assert alice.ask("GET", "/audit").status == 403
    entries = home.json("audit", "query", "--client", "alice")["entries"]
    seen = {(entry["event"], entry.get("api_key_id")) for entry in entries}
    assert {
        ("token_issued", made["key_id"]),
        ("access_denied", made["key_id"]),
        ("access_denied", None),
    } <= seen
    assert [e["event"] for e in entries if e.get("api_key_id")].count("access_denied") == 2


@pytest.mark.parametrize("lifetime", ["0d", "0s", 0, "99999d"])
def test_a_key_is_good_for_a_while_and_not_for_ever(alice: Caller, lifetime: str | int) -> None:
    refused = make(alice, expires_in=lifetime)
    assert (refused.status, refused.json["reason"]) == (400, "bad_request")
    assert "expires_in" in refused.json["detail"]


def test_a_token_for_a_key_does_not_see_to_the_account_either(
    served: Served, alice: Caller, caller: Any
) -> None:
    for scopes in ([], ["files:read"]):
        made = make(alice, scopes=scopes).json
        token = caller(served, token=token_for(caller(served), made["api_key"]))
        assert token.ask("GET", "/auth/me").status == 200
        for method, path in (
            ("POST", "/auth/api-keys"),
            ("GET", "/auth/api-keys"),
            ("POST", f"/auth/api-keys/{made['key_id']}/rotate"),
            ("DELETE", f"/auth/api-keys/{made['key_id']}"),
            ("DELETE", "/auth/sessions"),
            ("POST", "/auth/change-password"),
            ("POST", "/auth/mfa/enrol"),
            ("POST", "/auth/mfa/recovery-codes"),
            ("GET", "/auth/attempts"),
        ):
            answer = token.ask(method, path, "{}", JSON)
            assert (answer.status, answer.json["reason"]) == (403, "permission_denied"), path


def test_a_narrowed_token_does_not_see_to_the_account(
    home: Home, served: Served, alice: Caller, caller: Any
) -> None:
    unscoped = make(alice).json
    token = alice.form("/auth/token", scope="files:read").json["access_token"]
    narrowed = caller(served, home.folder / "clients" / "alice", token)
    assert narrowed.ask("GET", "/auth/me").json["permissions"] == ["files:read"]
    for method, path in (
        ("POST", f"/auth/api-keys/{unscoped['key_id']}/rotate"),
        ("DELETE", f"/auth/api-keys/{unscoped['key_id']}"),
        ("POST", "/auth/api-keys"),
        ("GET", "/auth/sessions"),
        ("POST", "/auth/change-password"),
        ("POST", "/auth/mfa/enrol"),
        ("POST", "/auth/mfa/recovery-codes"),
        ("GET", "/auth/attempts"),
    ):
        answer = narrowed.ask(method, path, "{}", JSON)
        assert (answer.status, answer.json["reason"]) == (403, "permission_denied"), path
    assert len(alice.ask("GET", "/auth/api-keys").json["api_keys"]) == 1
    assert narrowed.ask("POST", "/auth/logout").status == 204


def rotate(owner: Caller, key_id: str, **body: Any) -> Answer:
    return owner.ask("POST", f"/auth/api-keys/{key_id}/rotate", json.dumps(body), JSON)


def test_rotation_without_an_overlap_ends_the_old_keys_tokens(
    served: Served, alice: Caller, caller: Any
) -> None:
    old = make(alice).json
    with_old = caller(served, token=token_for(caller(served), old["api_key"]))
    assert with_old.ask("GET", "/auth/me").status == 200
    new = rotate(alice, old["key_id"], overlap=0).json
    assert with_old.ask("GET", "/auth/me").json["reason"] == "token_revoked"
    with_new = caller(served, token=token_for(caller(served), new["api_key"]))
    assert with_new.ask("GET", "/auth/me").status == 200
    gone = rotate(alice, old["key_id"])
    assert (gone.status, gone.json["reason"]) == (404, "api_key_not_found")


def test_a_token_ends_when_its_key_does_after_an_overlap(
    served: Served, alice: Caller, caller: Any, wait_until: Callable[..., Any]
) -> None:
    old = make(alice).json
    with_old = caller(served, token=token_for(caller(served), old["api_key"]))
    assert rotate(alice, old["key_id"], overlap=2).status == 201
    answer = wait_until(lambda: (found := with_old.ask("GET", "/auth/me")).status == 401 and found)
    assert answer.json["reason"] == "token_revoked"


def test_a_key_is_rotated_once_and_its_overlap_is_short(alice: Caller) -> None:
    old = make(alice).json
    for overlap in (31 * 86400, "31d"):
        refused = rotate(alice, old["key_id"], overlap=overlap)
        assert (refused.status, refused.json["reason"]) == (400, "bad_request")
    new = rotate(alice, old["key_id"], overlap="30d").json
    again = rotate(alice, old["key_id"])
    assert (again.status, again.json["reason"]) == (409, "conflict")
    assert rotate(alice, new["key_id"]).status == 201


def test_rotation_does_not_go_round_the_limit(alice: Caller) -> None:
    keys = [make(alice).json["key_id"] for _ in range(64)]
    for answer in (make(alice), rotate(alice, keys[0])):
        assert (answer.status, answer.json["reason"]) == (409, "conflict")
    assert rotate(alice, keys[0], overlap=0).status == 201, "one goes, one comes"
    assert len(alice.ask("GET", "/auth/api-keys").json["api_keys"]) == 64


def test_a_key_and_a_narrowed_token_end_no_other_tokens_of_their_client(
    served: Served, alice: Caller, caller: Any
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    def narrowed(how: Caller) -> Any:
        answer = how.ask("POST", "/auth/token", "scope=files:read", form)
        assert answer.status == 200
        return answer.json

    def revoke(credential: dict[str, str], token: str, name: str = "token") -> tuple[int, str | None]:
        answer = caller(served).ask("POST", "/auth/revoke", f"{name}={token}", {**form, **credential})
        return answer.status, answer.json.get("reason")

    def live(token: str) -> bool:
        answer = alice.ask("POST", "/auth/introspect", f"token={token}", form)
        return bool(answer.json["active"])

    key = {"X-API-Key": make(alice, name="whole").json["api_key"]}
    other_key = {"X-API-Key": make(alice, name="other").json["api_key"]}
    of_key, of_other = (token_for(caller(served), each["X-API-Key"]) for each in (key, other_key))
    full = alice.ask("GET", "/auth/token").json["access_token"]
    token_id = alice.ask("POST", "/auth/introspect", f"token={full}", form).json["jti"]
    refused = (403, "permission_denied")
    for credential in (key, {"Authorization": f"Bearer {of_key}"}):
        assert revoke(credential, full) == refused
        assert revoke(credential, token_id, "token_id") == refused
        assert revoke(credential, of_other) == refused
    assert (live(full), live(of_other)) == (True, True)
    assert revoke(key, of_key) == (200, None), "its own it may"
    assert not live(of_key)

    narrow = narrowed(alice)["access_token"]
    bound = {"Authorization": f"Bearer {narrow}"}
    answer = alice.ask("POST", "/auth/revoke", f"token={full}", {**form, **bound})
    assert (answer.status, answer.json["reason"]) == refused
    assert live(full)
    assert alice.ask("POST", "/auth/revoke", f"token={narrow}", {**form, **bound}).status == 200
    assert not live(narrow)
    assert alice.ask("POST", "/auth/revoke", f"token={full}", form).status == 200
    assert not live(full)
