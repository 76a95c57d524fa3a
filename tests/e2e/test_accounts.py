"""One's own account, over real TLS: signing in and out, the password, the sessions."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import ADMIN_PASSWORD

if TYPE_CHECKING:
    from tests.conftest import Answer, Caller, Home, Served

PASSWORD = "Purple-Kettle-81-Moor"
OTHER = "Walnut-Ferry-42-Loft"


def prepare(home: Home) -> None:
    home.client("alice", password=PASSWORD)
    home.client("bob", password=PASSWORD)


@pytest.fixture
def served(home: Home) -> Served:
    home.configure("", settings={"limits": {"login_per_minute": 1000}})
    return home.serve()


def post(caller: Caller, path: str, **body: Any) -> Answer:
    return caller.ask("POST", path, json.dumps(body), {"Content-Type": "application/json"})


def sign_in(make: Any, served: Served, name: str = "alice", password: str = PASSWORD) -> tuple[Caller, Any]:
    nobody = make(served)
    answer = post(nobody, "/auth/login", username=name, password=password)
    assert answer.status == 200, answer
    return make(served, token=answer.json["access_token"]), answer.json


def test_login_me_logout(home: Home, served: Served, caller: Any) -> None:
    alice, tokens = sign_in(caller, served)
    assert tokens.keys() == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    me = alice.ask("GET", "/auth/me").json
    assert (me["client_id"], me["username"], me["tenant_id"], me["proof"]) == (
        "alice",
        "alice",
        "default",
        "token",
    )
    assert me["email_verified"] is False
    assert alice.ask("POST", "/auth/logout").status == 204
    assert alice.ask("GET", "/auth/me").status == 401
    again = post(caller(served), "/auth/refresh", refresh_token=tokens["refresh_token"])
    assert (again.status, again.json["error"]) == (400, "invalid_grant")
    events = [each["event"] for each in home.json("audit", "query", "--client", "alice")["entries"]]
    assert {"login", "logout", "token_issued"} <= set(events)


def test_who_tried_to_sign_in_is_told_to_the_owner_alone(served: Served, caller: Any) -> None:
    bob, _ = sign_in(caller, served, "bob")
    for name in ("alice", "bob"):
        assert post(caller(served), "/auth/login", username=name, password="Wrong-Password-1!").status == 401
    alice, _ = sign_in(caller, served)
    assert post(alice, "/auth/change-password", current_password=PASSWORD, new_password=OTHER).status == 200
    attempts = alice.ask("GET", "/auth/attempts").json["attempts"]
    said = [(each["event"], each["status"], each["reason"]) for each in attempts]
    assert said[-1] == ("auth_failed", "failed", "invalid_credentials"), "newest first"
    assert set(said[:-1]) == {("login", "ok", None), ("token_issued", "ok", None)}
    assert {each["address"] for each in attempts} == {"127.0.0.1"}
    assert len(bob.ask("GET", "/auth/attempts").json["attempts"]) == 3
    anonymous = caller(served).ask("GET", "/auth/attempts")
    assert (anonymous.status, anonymous.json["reason"]) == (401, "authentication_required")
    assert [alice.ask("GET", "/auth/attempts").status for _ in range(6)] == [200] * 5 + [429]
    assert bob.ask("GET", "/auth/attempts").status == 200


def test_signing_in_is_refused_alike(home: Home, served: Served, caller: Any) -> None:
    home.cli("clients", "disable", "bob")
    nobody = caller(served)
    answers = [
        post(nobody, "/auth/login", username=name, password="Wrong-Password-1!")
        for name in ("alice", "bob", "zoe")
    ]
    assert {answer.status for answer in answers} == {401}
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    bodies = [{**answer.json, "request_id": ""} for answer in answers]
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0]["reason"] == "invalid_credentials"


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"username": "alice"}',
        '{"username": "alice", "username": "bob", "password": "x"}',
        '{"username": "alice", "password": 1}',
        '{"username": "alice", "password": "x", "admin": true}',
        "[]",
        "",
    ],
)
def test_what_is_no_sign_in(served: Served, caller: Any, body: str) -> None:
    answer = caller(served).ask("POST", "/auth/login", body, {"Content-Type": "application/json"})
    assert (answer.status, answer.json["reason"]) == (400, "bad_request")
    assert "x" not in answer.json["detail"].split()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/auth/logout"),
        ("GET", "/auth/me"),
        ("POST", "/auth/change-password"),
        ("GET", "/auth/sessions"),
        ("DELETE", "/auth/sessions"),
        ("DELETE", "/auth/sessions/x"),
    ],
)
def test_an_account_is_somebodys(served: Served, caller: Any, method: str, path: str) -> None:
    answer = caller(served).ask(method, path)
    assert (answer.status, answer.json["reason"]) == (401, "authentication_required")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_sessions_are_listed_and_ended(home: Home, served: Served, caller: Any) -> None:
    one, _ = sign_in(caller, served)
    two, other_tokens = sign_in(caller, served)
    bob, _ = sign_in(caller, served, "bob")
    listed = one.ask("GET", "/auth/sessions").json["sessions"]
    assert [each["current"] for each in listed] == [True, False]
    for each in listed:
        assert each.keys() == {
            "session_id",
            "address",
            "user_agent",
            "certificate",
            "created_at",
            "last_used_at",
            "current",
        }
        assert each["address"] in {"127.0.0.1", "::1"}
    other = listed[1]["session_id"]
    assert bob.ask("DELETE", f"/auth/sessions/{other}").status == 404, "another's session is none"
    assert one.ask("DELETE", f"/auth/sessions/{other}").status == 204
    assert two.ask("GET", "/auth/me").status == 401
    refused = post(caller(served), "/auth/refresh", refresh_token=other_tokens["refresh_token"])
    assert refused.status == 400
    assert one.ask("DELETE", f"/auth/sessions/{other}").status == 404
    three, _ = sign_in(caller, served)
    assert one.ask("DELETE", "/auth/sessions").json == {"ended": 1}
    assert three.ask("GET", "/auth/me").status == 401
    assert one.ask("GET", "/auth/me").status == 200
    assert bob.ask("GET", "/auth/me").status == 200


def test_sessions_survive_a_restart(home: Home, served: Served, caller: Any) -> None:
    _, tokens = sign_in(caller, served)
    served.stop()
    again = home.serve()
    alice = caller(again, token=tokens["access_token"])
    [session] = alice.ask("GET", "/auth/sessions").json["sessions"]
    assert session["current"] is True


def test_a_changed_password_ends_the_other_sessions(home: Home, served: Served, caller: Any) -> None:
    one, tokens = sign_in(caller, served)
    two, _ = sign_in(caller, served)
    wrong = post(one, "/auth/change-password", current_password="Nope-Nope-1", new_password=OTHER)
    assert (wrong.status, wrong.json["reason"]) == (401, "invalid_credentials")
    weak = post(one, "/auth/change-password", current_password=PASSWORD, new_password="weak")
    assert (weak.status, weak.json["reason"]) == (400, "password_rejected")
    same = post(one, "/auth/change-password", current_password=PASSWORD, new_password=PASSWORD)
    assert (same.status, same.json["reason"]) == (400, "password_rejected")
    assert two.ask("GET", "/auth/me").status == 200
    done = post(one, "/auth/change-password", current_password=PASSWORD, new_password=OTHER)
    assert done.status == 200
    assert one.ask("GET", "/auth/me").status == 200
    assert two.ask("GET", "/auth/me").status == 401
    renewed = post(caller(served), "/auth/refresh", refresh_token=tokens["refresh_token"])
    assert renewed.status == 200
    assert post(caller(served), "/auth/login", username="alice", password=PASSWORD).status == 401
    sign_in(caller, served, password=OTHER)
    back = post(one, "/auth/change-password", current_password=OTHER, new_password=PASSWORD)
    assert back.json["reason"] == "password_rejected", "one of the last five"
    assert "password_changed" in [
        e["event"] for e in home.json("audit", "query", "--client", "alice")["entries"]
    ]


def test_over_a_certificate_a_session_is_bound_to_it(home: Home, served: Served, caller: Any) -> None:
    files = home.folder / "clients" / "alice"
    with_it = caller(served, files)
    answer = post(with_it, "/auth/login", username="alice", password=PASSWORD)
    assert answer.status == 200
    mismatch = post(with_it, "/auth/login", username="bob", password=PASSWORD)
    assert (mismatch.status, mismatch.json["reason"]) == (401, "certificate_mismatch")
    without = caller(served, token=answer.json["access_token"])
    assert without.ask("GET", "/auth/sessions").status == 401
    [session] = with_it.ask("GET", "/auth/sessions").json["sessions"]
    assert session["certificate"]
    assert session["current"] is False, "a certificate alone is no session"


def test_health(served: Served, caller: Any) -> None:
    answer = caller(served).ask("GET", "/auth/health")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


def test_a_password_that_an_administrator_sets_ends_every_session(
    home: Home, served: Served, caller: Any
) -> None:
    alice, tokens = sign_in(caller, served)
    home.cli("clients", "set-password", "alice", "--password-stdin", stdin=f"{OTHER}\n")
    assert alice.ask("GET", "/auth/me").status == 401
    assert post(caller(served), "/auth/refresh", refresh_token=tokens["refresh_token"]).status == 400
    again, _ = sign_in(caller, served, password=OTHER)
    back = post(again, "/auth/change-password", current_password=OTHER, new_password=PASSWORD)
    assert back.json["reason"] == "password_rejected", "one of the last five"


def test_a_hash_is_made_anew_when_the_cost_has_risen(home: Home, caller: Any) -> None:
    home.configure("", settings={"limits": {"login_per_minute": 1000}, "accounts": {"bcrypt_cost": 13}})
    served = home.serve()
    sign_in(caller, served)
    home.cli("clients", "set-password", "bob", "--password-stdin", stdin=f"{OTHER}\n")
    served.stop()
    kept = json.loads((home.folder / "persistence" / "clients.json").read_text())["clients"]
    hashes = {each["client_id"]: each["password_hash"] for each in kept}
    assert hashes["alice"].startswith("hmac-sha256-v1$2b$13$")
    assert hashes["bob"].startswith("hmac-sha256-v1$2b$13$")
    assert hashes["root"].startswith("hmac-sha256-v1$2b$12$"), "nobody signed in"
    sign_in(caller, home.serve())


def test_no_password_or_token_is_in_the_store_or_a_backup(home: Home, served: Served, caller: Any) -> None:
    _, tokens = sign_in(caller, served)
    backup = home.folder / "backup.tar"
    home.cli("backup", str(backup))
    served.stop()
    secrets = [PASSWORD, ADMIN_PASSWORD, tokens["refresh_token"], tokens["access_token"]]
    files = [backup, *(each for each in (home.folder / "persistence").rglob("*") if each.is_file())]
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], file


ADMIN_API = "/admin/api/clients"


@pytest.fixture
def root(home: Home, served: Served, caller: Any) -> Caller:
    """The administrator, by a whole sign-in."""
    made, _ = sign_in(caller, served, "root", ADMIN_PASSWORD)
    return made


def patch(caller: Caller, name: str, headers: dict[str, str] | None = None, **body: Any) -> Answer:
    sent = {"Content-Type": "application/json", **(headers or {})}
    return caller.ask("PATCH", f"{ADMIN_API}/{name}", json.dumps(body), sent)


def test_nobody_gets_round_the_present_password_by_administering(
    served: Served, root: Caller, caller: Any
) -> None:
    answer = patch(root, "root", password=OTHER)
    assert answer.status == 403
    assert "/auth/change-password" in answer.json["detail"]
    key = post(root, "/auth/api-keys", name="ci").json["api_key"]
    narrowed = post(caller(served), "/auth/login", username="root", password=ADMIN_PASSWORD, scope="*:*").json
    by_key, by_token = {"X-API-Key": key}, {"Authorization": f"Bearer {narrowed['access_token']}"}
    for headers in (by_key, by_token):
        for change in ({"password": OTHER}, {"email": "thief@example.org"}, {"disabled": True}):
            refused = patch(caller(served), "root", headers, **change)
            assert (refused.status, "sign in without a scope" in refused.json["detail"]) == (403, True), (
                refused
            )
        assert caller(served).ask("DELETE", f"{ADMIN_API}/root", None, headers).status == 403
        [session] = root.ask("GET", "/auth/sessions").json["sessions"][:1]
        ended = caller(served).ask("DELETE", f"/admin/api/sessions/{session['session_id']}", None, headers)
        assert ended.status == 403
        tokens = root.ask("GET", "/admin/api/tokens?client_id=root").json["tokens"]
        [refresh] = [each["token_id"] for each in tokens if each["kind"] == "refresh"][:1]
        ended = caller(served).ask("DELETE", f"/admin/api/tokens/{refresh}", None, headers)
        assert ended.status == 403
        form = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        ended = caller(served).ask("POST", "/auth/revoke", f"token_id={refresh}", form)
        assert (ended.status, ended.json["reason"]) == (403, "permission_denied")
        assert patch(caller(served), "bob", headers, given_name="Bob").status == 200
    sign_in(caller, served, "root", ADMIN_PASSWORD)


def test_nobody_shuts_themselves_out(home: Home, served: Served, root: Caller) -> None:
    assert patch(root, "bob", disabled=True).status == 200
    for path in ("clients/root", "tenants/default"):
        body, headers = json.dumps({"disabled": True}), {"Content-Type": "application/json"}
        refused = root.ask("PATCH", f"/admin/api/{path}", body, headers)
        assert (refused.status, "shut you out" in refused.json["detail"]) == (409, True), path
    erased = root.ask("DELETE", f"{ADMIN_API}/root")
    assert (erased.status, "shut you out" in erased.json["detail"]) == (409, True)
    assert root.ask("DELETE", f"{ADMIN_API}/alice").status == 204
    home.cli("clients", "disable", "root")
    assert root.ask("GET", "/auth/me").status == 401


def test_the_rules_hold_for_passwords_that_an_administrator_sets(
    home: Home, served: Served, root: Caller, caller: Any
) -> None:
    named = home.cli("clients", "add", "Carol-Doe-1", "--password-stdin", stdin="cAROL-dOE-1\n", check=False)
    assert (named.returncode, named.stdout) == (1, ""), named
    assert "must not be the name" in named.stderr
    assert patch(root, "alice", password=OTHER).status == 200
    for once in (PASSWORD, OTHER):
        again = patch(root, "alice", password=once)
        assert again.status == 400
        assert "one of the last 5" in again.json["detail"]
    again = home.cli(
        "clients", "set-password", "alice", "--password-stdin", stdin=f"{PASSWORD}\n", check=False
    )
    assert "one of the last 5" in again.stderr
    sign_in(caller, served, password=OTHER)


def test_a_reset_wins_over_a_change_under_way(served: Served, root: Caller, caller: Any) -> None:
    thief, _ = sign_in(caller, served)
    stolen, reset = "Att4cker-pw!!", "Res3t-by-root!!"
    with ThreadPoolExecutor() as threads:
        changing = threads.submit(
            post, thief, "/auth/change-password", current_password=PASSWORD, new_password=stolen
        )
        time.sleep(0.3)  # the present password is being checked, or the new one hashed
        assert patch(root, "alice", password=reset).status == 200
        changed = changing.result()
    # Whichever was first, the reset is what counts.
    assert changed.status in {200, 401, 409}, changed
    sign_in(caller, served, password=reset)
    assert post(caller(served), "/auth/login", username="alice", password=stolen).status == 401


def test_nobody_waits_for_the_hashing_of_others(
    home: Home, served: Served, root: Caller, caller: Any
) -> None:
    home.cli("clients", "add", "clerk", "--role", "admin", "--password-stdin", stdin=f"{PASSWORD}\n")
    clerks = [sign_in(caller, served, "clerk")[0] for _ in range(6)]
    with ThreadPoolExecutor() as threads:
        resets = [
            threads.submit(patch, clerk, "alice", password=f"Side-by-side-{number}")
            for number, clerk in enumerate(clerks)
        ]
        time.sleep(0.2)  # the first one is being hashed
        assert patch(root, "clerk", disabled=True).status == 200
        answers = [each.result() for each in resets]
    refused = [each.json["reason"] for each in answers if each.status == 401]
    assert len(refused) >= 4, answers
    assert set(refused) == {"client_disabled"}


def test_of_changes_side_by_side_one_is_done(served: Served, caller: Any) -> None:
    callers = [sign_in(caller, served)[0] for _ in range(4)]
    wanted = [f"Side-by-side-{number}" for number in range(4)]
    with ThreadPoolExecutor() as threads:
        answers = list(
            threads.map(
                lambda one, new: post(
                    one, "/auth/change-password", current_password=PASSWORD, new_password=new
                ),
                callers,
                wanted,
            )
        )
    done = [new for new, answer in zip(wanted, answers, strict=True) if answer.status == 200]
    assert len(done) == 1, answers
    sign_in(caller, served, password=done[0])
