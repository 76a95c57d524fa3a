"""Making an account of one's own, over real TLS."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Answer, Home, Served

PASSWORD = "Purple-Kettle-81-Moor"


def serve(home: Home, mode: str) -> Served:
    home.configure("", settings={"limits": {"login_per_minute": 1000}, "accounts": {"register": mode}})
    return home.serve()


def post(make: Any, served: Served, path: str, **body: Any) -> Answer:
    answer: Answer = make(served).ask("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return answer


def register(make: Any, served: Served, name: str = "zoe", **more: Any) -> Answer:
    return post(make, served, "/auth/register", username=name, **{"password": PASSWORD, **more})


def test_off_is_off(home: Home, caller: Any) -> None:
    served = home.serve()
    answer = register(caller, served)
    assert (answer.status, answer.json["reason"]) == (403, "registration_closed")
    assert [each["client_id"] for each in home.json("clients", "list")["clients"]] == ["root"]


def test_open(home: Home, caller: Any) -> None:
    served = serve(home, "open")
    answer = register(caller, served, email="zoe@example.org")
    assert answer.status == 201
    assert (answer.json["client_id"], answer.json["roles"], answer.json["email_verified"]) == (
        "zoe",
        [],
        False,
    )
    client = home.json("clients", "show", "zoe")["client"]
    assert (client["roles"], client["permissions"], client["certificate"]) == ([], [], None)
    tokens = post(caller, served, "/auth/login", username="zoe", password=PASSWORD)
    assert tokens.status == 200
    me = caller(served, token=tokens.json["access_token"]).ask("GET", "/auth/me").json
    assert (me["email"], me["permissions"]) == ("zoe@example.org", [])
    for name in ("root", "ROOT", "Zoe"):
        taken = register(caller, served, name)
        assert (taken.status, taken.json["reason"]) == (409, "conflict"), "also where the case alone differs"
    body = json.dumps({"username": "zed", "password": PASSWORD})
    headers = {"Content-Type": "application/json", "X-Tenant-ID": "acme"}
    elsewhere = caller(served).ask("POST", "/auth/register", body, headers)
    assert (elsewhere.status, elsewhere.json["reason"]) == (403, "tenant_mismatch")
    for name, more, reason in (
        ("zed", {"password": "weak"}, "password_rejected"),
        ("zed-the-fox", {"password": "Z3d-the-Fox2024!"}, "password_rejected"),
        ("a:b", {}, "bad_request"),
        ("zed", {"email": "nowhere"}, "bad_request"),
        ("zed", {"roles": ["admin"]}, "bad_request"),
        ("zed", {"invitation": "made-up"}, "registration_closed"),
    ):
        assert register(caller, served, name, **more).json["reason"] == reason
    entries = home.json("audit", "query", "--event", "admin_change")["entries"]
    assert ("clients.register", "zoe") in {(each["method"], each["target"]) for each in entries}


def test_while_its_tenant_is_disabled_nobody_registers(home: Home, caller: Any) -> None:
    served = serve(home, "open")
    home.cli("tenants", "disable", "default")
    refused = register(caller, served)
    assert (refused.status, refused.json["reason"]) == (403, "registration_closed")
    home.cli("tenants", "enable", "default")
    assert register(caller, served).status == 201


def test_a_credential_that_is_there_and_wrong_is_not_taken_for_none(home: Home, caller: Any) -> None:
    files = home.client("shut-out")
    unmapped = home.certificate("nobody-yet")
    served = serve(home, "open")
    home.cli("clients", "disable", "shut-out")
    body = json.dumps({"username": "zoe", "password": PASSWORD})
    headers = {"Content-Type": "application/json"}
    refused = caller(served, files).ask("POST", "/auth/register", body, headers)
    assert (refused.status, refused.json["reason"]) == (401, "client_disabled")
    for header in ({"Authorization": "Bearer garbage"}, {"X-API-Key": "osk_bad"}):
        refused = caller(served).ask("POST", "/auth/register", body, {**headers, **header})
        assert (refused.status, refused.json["reason"]) == (400, "ambiguous_credentials")
    home.cli("clients", "erase", "shut-out")
    assert caller(served, files).ask("POST", "/auth/register", body, headers).status == 401
    assert caller(served, unmapped).ask("POST", "/auth/register", body, headers).status == 201


def test_a_role_that_an_invitation_gives_is_not_removed(home: Home, caller: Any) -> None:
    home.cli("roles", "add", "helper", "--permission", "files:read")
    invitation = home.json("invitations", "add", "--role", "helper")["invitation"]["invitation_id"]
    refused = home.cli("roles", "remove", "helper", check=False)
    assert (refused.returncode, "`ostiary invitations revoke`" in refused.stderr) == (1, True)
    [entry] = home.json("audit", "query", "--event", "admin_change", "--limit", "1")["entries"]
    assert entry["target"].startswith(f"{invitation}: helper; until 20")
    home.cli("invitations", "revoke", invitation)
    home.cli("roles", "remove", "helper")


def test_an_invitation_is_good_once(home: Home, caller: Any) -> None:
    home.configure('[roles]\nanalyst = ["files:read"]\n')
    served = serve(home, "invitation")
    code = home.json("invitations", "add", "--role", "analyst")["code"]
    without = register(caller, served, "root")
    wrong = register(caller, served, "root", invitation="made-up")
    assert (without.status, wrong.status) == (403, 403), "whether or not the name is taken"
    assert wrong.json["detail"] == register(caller, served, "zed", invitation="made-up").json["detail"]
    names = [f"zoe{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: register(caller, served, name, invitation=code), names))
    assert sorted(answer.status for answer in answers) == [201, 403, 403, 403]
    [made] = [answer.json for answer in answers if answer.status == 201]
    assert made["roles"] == ["analyst"]
    [entry] = home.json("audit", "query", "--event", "admin_change", "--client", made["client_id"])["entries"]
    assert entry["target"] == f"{made['client_id']}: analyst", "with what was given"
    [listed] = home.json("invitations", "list")["invitations"]
    assert listed["client_id"] == made["client_id"]
    assert code not in (home.folder / "persistence" / "invitations.json").read_text()
    other = home.json("invitations", "add")
    home.cli("invitations", "revoke", other["invitation"]["invitation_id"])
    assert register(caller, served, "late", invitation=other["code"]).status == 403


def test_a_registration_is_an_entry_of_its_tenant(home: Home, caller: Any) -> None:
    served = serve(home, "invitation")
    home.cli("tenants", "add", "acme")
    code = home.json("invitations", "add", "--tenant", "acme")["code"]
    refused = register(caller, served, "erased-7", invitation=code)
    assert (refused.status, refused.json["reason"]) == (400, "bad_request")
    assert register(caller, served, invitation=code).json["tenant_id"] == "acme"
    entries = home.json("audit", "query", "--event", "admin_change", "--client", "zoe")["entries"]
    assert {(each["method"], each["tenant_id"]) for each in entries} == {("clients.register", "acme")}


def test_an_invitation_to_a_tenant_that_is_disabled_is_not_good(home: Home, caller: Any) -> None:
    served = serve(home, "invitation")
    home.cli("tenants", "add", "acme")
    code = home.json("invitations", "add", "--tenant", "acme")["code"]
    home.cli("tenants", "disable", "acme")
    refused = register(caller, served, invitation=code)
    assert (refused.status, refused.json["reason"]) == (403, "registration_closed")
    home.cli("tenants", "enable", "acme")
    assert register(caller, served, invitation=code).status == 201
