"""What an account says of its person, over real TLS."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Answer, Caller, Home, Served

JSON = {"Content-Type": "application/json"}
PASSWORD = "Purple-Kettle-81-Moor"


def prepare(home: Home) -> None:
    home.client("alice", password=PASSWORD)
    home.certificate("root")


@pytest.fixture
def served(home: Home) -> Served:
    return home.serve()


@pytest.fixture
def alice(home: Home, served: Served, caller: Any) -> Caller:
    made: Caller = caller(served, home.folder / "clients" / "alice")
    return made


@pytest.fixture
def root(home: Home, served: Served, caller: Any) -> Caller:
    made: Caller = caller(served, home.folder / "clients" / "root")
    return made


def patch(caller: Caller, path: str = "/auth/me", **body: Any) -> Answer:
    return caller.ask("PATCH", path, json.dumps(body), JSON)


def verify(caller: Caller, code: str) -> Answer:
    return caller.ask("POST", "/auth/verify-email", json.dumps({"code": code}), JSON)


def claims(caller: Caller) -> dict[str, Any]:
    """Those of a new access token."""
    payload = caller.ask("GET", "/auth/token").json["access_token"].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def test_an_address_is_proven_by_the_code_that_was_sent_there(
    home: Home, alice: Caller, root: Caller
) -> None:
    assert "email" not in claims(alice)
    none = verify(alice, "abcd-efgh")
    assert (none.status, none.json["reason"]) == (400, "email_code_invalid")
    me = patch(alice, given_name="Alice", family_name="Liddell", email="alice@example.org")
    assert me.status == 200
    told = {name: me.json[name] for name in ("given_name", "family_name", "email", "email_verified")}
    assert told == {
        "given_name": "Alice",
        "family_name": "Liddell",
        "email": "alice@example.org",
        "email_verified": False,
    }
    assert (claims(alice)["email"], claims(alice)["email_verified"]) == ("alice@example.org", False)

    made = home.json("clients", "email-code", "alice")
    assert (made["email"], len(made["code"])) == ("alice@example.org", 9)
    assert verify(alice, "aaaa-aaaa").json["reason"] == "email_code_invalid"
    done = verify(alice, made["code"].upper().replace("-", " "))
    assert (done.status, done.json["email_verified"]) == (200, True)
    assert claims(alice)["email_verified"] is True
    assert verify(alice, made["code"]).status == 400, "it is good once"

    assert patch(alice, given_name=None).json["email_verified"] is True
    changed = patch(alice, email="alice@example.net").json
    assert (changed["given_name"], changed["email_verified"]) == (None, False)
    assert patch(alice, email="alice@example.org").json["email_verified"] is False, "each change asks anew"
    assert patch(alice, email=None).json["email"] is None
    assert "email" not in claims(alice)

    entries = root.ask("GET", "/audit?client_id=alice&limit=100").json["entries"]
    said = [(each["event"], each["target"]) for each in entries if each["event"] != "token_issued"]
    assert ("profile_changed", "alice: given_name family_name email") in said
    assert ("email_verified", "alice") in said
    assert "example.org" not in json.dumps(entries)


def test_a_code_is_for_the_address_that_it_was_made_for_and_for_five_tries(
    alice: Caller, root: Caller
) -> None:
    def code() -> str:
        answer = root.ask("POST", "/admin/api/email-codes/alice")
        assert answer.status == 201, answer
        text: str = answer.json["code"]
        return text

    assert root.ask("POST", "/admin/api/email-codes/alice").status == 409, "there is no address"
    patch(alice, email="alice@example.org")
    stale = code()
    patch(alice, email="mallory@example.org")
    assert verify(alice, stale).status == 400
    good = code()
    assert [verify(alice, "aaaa-aaaa").status for _ in range(5)] == [400] * 5
    assert verify(alice, good).status == 400
    first, second = code(), code()
    assert verify(alice, first).status == 400, "the latest is the one"
    assert verify(alice, second).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"email": "no address"},
        {"email": "a@b@c"},
        {"given_name": ""},
        {"given_name": "x" * 101},
        {"family_name": "a\u0000b"},
        {"email_verified": True},
        {"roles": ["admin"]},
        {"email": 1},
    ],
)
def test_what_is_no_profile(alice: Caller, body: dict[str, Any]) -> None:
    answer = patch(alice, **body)
    assert (answer.status, answer.json["reason"]) == (400, "bad_request")


def test_who_does_not_own_the_account_does_not_change_it(served: Served, alice: Caller, caller: Any) -> None:
    assert patch(caller(served), given_name="x").status == 401
    key = alice.ask("POST", "/auth/api-keys", json.dumps({"name": "ci"}), JSON).json["api_key"]
    by_key = caller(served)
    for method, path in (("PATCH", "/auth/me"), ("POST", "/auth/verify-email")):
        refused = by_key.ask(method, path, "{}", {"X-API-Key": key, **JSON})
        assert (refused.status, refused.json["reason"]) == (403, "permission_denied")


def test_who_is_erased_meanwhile_is_refused(
    home: Home, served: Served, alice: Caller, root: Caller, caller: Any
) -> None:
    files = home.folder / "clients" / "alice"
    callers = [caller(served, files) for _ in range(6)]

    def change(one: Caller) -> list[int]:
        return [patch(one, given_name="Alice").status for _ in range(8)]

    with ThreadPoolExecutor(len(callers)) as threads:
        running = [threads.submit(change, one) for one in callers]
        assert root.ask("DELETE", "/admin/api/clients/alice").status == 204
        statuses = {status for each in running for status in each.result()}
    assert statuses <= {200, 401}
    assert "Traceback" not in served.log.read_text()


def test_administrators_see_and_change_profiles(home: Home, alice: Caller, root: Caller) -> None:
    one = "/admin/api/clients/alice"
    changed = patch(root, one, email="alice@example.org", email_verified=True, family_name="Liddell")
    assert changed.status == 200
    assert changed.json == root.ask("GET", one).json
    assert (changed.json["email"], changed.json["email_verified"]) == ("alice@example.org", True)
    assert alice.ask("GET", "/auth/me").json["email_verified"] is True
    assert patch(root, one, email="alice@example.net").json["email_verified"] is False
    assert patch(root, one, email=None, email_verified=True).status == 409
    assert patch(root, one, email="no address").status == 400
    shown = home.cli("clients", "profile", "alice", "--given-name", "Alice", "--verified").stdout
    assert "Alice" in shown
    me = alice.ask("GET", "/auth/me").json
    assert (me["given_name"], me["family_name"], me["email_verified"]) == ("Alice", "Liddell", True)
    entry = root.ask("GET", "/audit?event=admin_change&limit=1").json["entries"][0]
    assert (entry["method"], entry["target"]) == ("clients.profile", "alice: given_name email_verified")
