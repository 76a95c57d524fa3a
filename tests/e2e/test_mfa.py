"""Second factors over real TLS."""

from __future__ import annotations

import base64
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gateway.identity.totp import STEP, code_at

if TYPE_CHECKING:
    from tests.conftest import Answer, Caller, Home, Served

PASSWORD = "Purple-Kettle-81-Moor"


def prepare(home: Home) -> None:
    home.client("alice", password=PASSWORD)
    home.configure(
        """[roles]
guarded = ["files:read"]
""",
        settings={
            "limits": {"login_per_minute": 1000},
            "accounts": {"mfa_required_roles": ["guarded"]},
        },
    )


@pytest.fixture
def served(home: Home) -> Served:
    return home.serve()


def post(caller: Caller, path: str, **body: Any) -> Answer:
    return caller.ask("POST", path, json.dumps(body), {"Content-Type": "application/json"})


def code(secret: str, *, ahead: int = 0) -> str:
    return code_at(base64.b32decode(secret), int(time.time()) // STEP + ahead)


def login(caller: Caller, name: str = "alice") -> Answer:
    return post(caller, "/auth/login", username=name, password=PASSWORD)


def enrol(make: Any, served: Served, name: str = "alice") -> tuple[str, list[str], Caller]:
    """With the codes of the step before used up; the secret, the recovery codes, who it was."""
    one = make(served, token=login(make(served), name).json["access_token"])
    answer = post(one, "/auth/mfa/enrol")
    assert answer.status == 200, answer
    secret = answer.json["secret"]
    confirmed = post(one, "/auth/mfa/confirm", code=code(secret, ahead=-1))
    assert confirmed.status == 200, confirmed
    return secret, confirmed.json["recovery_codes"], one


def test_enrolment(home: Home, served: Served, caller: Any) -> None:
    alice = caller(served, token=login(caller(served)).json["access_token"])
    answer = post(alice, "/auth/mfa/enrol").json
    assert answer.keys() == {"secret", "otpauth_uri", "qr_svg"}
    assert answer["otpauth_uri"].startswith("otpauth://totp/")
    assert answer["secret"] in answer["otpauth_uri"]
    assert answer["qr_svg"].startswith("<svg")
    assert "access_token" in login(caller(served)).json, "not confirmed yet"
    wrong = post(alice, "/auth/mfa/confirm", code="abc")
    assert (wrong.status, wrong.json["reason"]) == (401, "mfa_code_invalid")
    confirmed = post(alice, "/auth/mfa/confirm", code=code(answer["secret"]))
    assert len(set(confirmed.json["recovery_codes"])) == 10
    assert post(alice, "/auth/mfa/enrol").json["reason"] == "conflict"
    assert post(alice, "/auth/mfa/confirm", code=code(answer["secret"])).json["reason"] == "conflict"
    served.stop()
    raw = base64.b32decode(answer["secret"])
    for file in (home.folder / "persistence").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert answer["secret"].encode() not in content, file
            assert raw not in content, file
            assert confirmed.json["recovery_codes"][0].encode() not in content, file


def test_the_two_steps(home: Home, served: Served, caller: Any) -> None:
    secret, _, _ = enrol(caller, served)
    nobody = caller(served)
    first = login(nobody)
    assert first.status == 200
    assert first.json.keys() == {"mfa_required", "mfa_session_token", "expires_in"}
    assert (first.json["mfa_required"], first.json["expires_in"]) == (True, 300)
    token = first.json["mfa_session_token"]
    assert caller(served, token=token).ask("GET", "/auth/me").status == 401, "good for nothing else"
    assert post(nobody, "/auth/refresh", refresh_token=token).status == 400
    done = post(nobody, "/auth/login/mfa", mfa_session_token=token, code=code(secret))
    assert done.status == 200
    assert caller(served, token=done.json["access_token"]).ask("GET", "/auth/me").status == 200
    again = post(nobody, "/auth/login/mfa", mfa_session_token=token, code=code(secret, ahead=1))
    assert (again.status, again.json["reason"]) == (401, "mfa_session_invalid")
    events = {entry["event"] for entry in home.json("audit", "query", "--client", "alice")["entries"]}
    assert {"mfa_enabled", "login"} <= events


def test_each_code_once_also_side_by_side(home: Home, served: Served, caller: Any) -> None:
    secret, _, _ = enrol(caller, served)
    tokens = [login(caller(served)).json["mfa_session_token"] for _ in range(4)]
    present = code(secret)

    def second(token: str) -> int:
        return post(caller(served), "/auth/login/mfa", mfa_session_token=token, code=present).status

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(second, tokens)) == [200, 401, 401, 401]


def test_the_token_endpoint_does_not_go_round_it(home: Home, served: Served, caller: Any) -> None:
    enrol(caller, served)
    nobody = caller(served)
    basic = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
    answers = [
        nobody.form("/auth/token", grant_type="password", username="alice", password=PASSWORD),
        nobody.form(
            "/auth/token", grant_type="client_credentials", client_id="alice", client_secret=PASSWORD
        ),
        nobody.ask("GET", "/auth/token", None, {"Authorization": basic}),
    ]
    for answer in answers:
        assert answer.json["mfa_required"] is True
        assert answer.json["mfa_session_token"]
        assert "access_token" not in answer.json
    for path in ("/auth/introspect", "/auth/revoke"):
        refused = nobody.ask(
            "POST",
            path,
            "token=x",
            {"Authorization": basic, "Content-Type": "application/x-www-form-urlencoded"},
        )
        assert (refused.status, refused.json["reason"]) == (401, "mfa_required")
    with_certificate = caller(served, home.folder / "clients" / "alice")
    assert "access_token" in with_certificate.ask("GET", "/auth/token").json, "strong by itself"


def test_recovery_codes_are_good_once(served: Served, caller: Any) -> None:
    _, codes, _ = enrol(caller, served)
    nobody = caller(served)
    token = login(nobody).json["mfa_session_token"]
    spelled = codes[3].upper().replace("-", " ")
    assert post(nobody, "/auth/login/mfa", mfa_session_token=token, code=spelled).status == 200
    token = login(nobody).json["mfa_session_token"]
    again = post(nobody, "/auth/login/mfa", mfa_session_token=token, code=codes[3])
    assert (again.status, again.json["reason"]) == (401, "mfa_code_invalid")
    assert post(nobody, "/auth/login/mfa", mfa_session_token=token, code=codes[4]).status == 200


def test_turning_it_on_ends_the_other_sessions(home: Home, served: Served, caller: Any) -> None:
    before = login(caller(served)).json
    elsewhere = caller(served, token=before["access_token"])
    assert elsewhere.ask("GET", "/auth/me").json["mfa"] is None
    assert home.json("clients", "show", "alice")["client"]["mfa"] is None
    _, _, alice = enrol(caller, served)
    assert elsewhere.ask("GET", "/auth/me").status == 401
    refused = post(caller(served), "/auth/refresh", refresh_token=before["refresh_token"])
    assert (refused.status, refused.json["error"]) == (400, "invalid_grant")
    mfa = alice.ask("GET", "/auth/me").json["mfa"]
    assert mfa.keys() == {"enabled_at", "recovery_codes_left"}
    assert mfa["recovery_codes_left"] == 10
    assert home.json("clients", "show", "alice")["client"]["mfa"] == mfa
    listed = {each["client_id"]: each["mfa"] for each in home.json("clients", "list")["clients"]}
    assert listed == {"root": None, "alice": mfa}
    assert "10 recovery codes left" in home.cli("clients", "show", "alice").stdout


def test_new_recovery_codes_take_the_place_of_the_old_ones(home: Home, served: Served, caller: Any) -> None:
    nobody = caller(served)
    early = caller(served, token=login(nobody).json["access_token"])
    refused = post(early, "/auth/mfa/recovery-codes", password=PASSWORD, code="123456")
    assert (refused.status, refused.json["reason"]) == (409, "conflict")
    secret, codes, alice = enrol(caller, served)
    for password, wrong, reason in (
        ("Wrong-Password-1!", code(secret), "invalid_credentials"),
        (PASSWORD, "wrong", "mfa_code_invalid"),
    ):
        refused = post(alice, "/auth/mfa/recovery-codes", password=password, code=wrong)
        assert (refused.status, refused.json["reason"]) == (401, reason)
    done = post(alice, "/auth/mfa/recovery-codes", password=PASSWORD, code=code(secret))
    assert done.status == 200
    renewed = done.json["recovery_codes"]
    assert len({*renewed, *codes}) == 20
    token = login(nobody).json["mfa_session_token"]
    old = post(nobody, "/auth/login/mfa", mfa_session_token=token, code=codes[0])
    assert (old.status, old.json["reason"]) == (401, "mfa_code_invalid")
    assert post(nobody, "/auth/login/mfa", mfa_session_token=token, code=renewed[0]).status == 200
    assert alice.ask("GET", "/auth/me").json["mfa"]["recovery_codes_left"] == 9
    entries = home.json("audit", "query", "--client", "alice", "--event", "mfa_codes_renewed")["entries"]
    assert [each["status"] for each in entries] == ["ok"]


def test_whose_session_is_ended_meanwhile_turns_nothing_on(served: Served, caller: Any) -> None:
    owner, thief = (caller(served, token=login(caller(served)).json["access_token"]) for _ in range(2))
    secret = post(thief, "/auth/mfa/enrol").json["secret"]
    with ThreadPoolExecutor() as threads:
        confirming = threads.submit(post, thief, "/auth/mfa/confirm", code=code(secret))
        time.sleep(0.1)  # the recovery codes are being hashed
        assert owner.ask("DELETE", "/auth/sessions").json == {"ended": 1}
        confirmed = confirming.result()
    assert (confirmed.status, confirmed.json["reason"]) == (401, "token_revoked")
    assert owner.ask("GET", "/auth/me").json["mfa"] is None
    assert "access_token" in login(caller(served)).json


def test_it_is_turned_off_by_both_factors(served: Served, caller: Any) -> None:
    secret, _, alice = enrol(caller, served)
    wrong = post(alice, "/auth/mfa/disable", password="Wrong-Password-1!", code=code(secret))
    assert wrong.json["reason"] == "invalid_credentials"
    wrong = post(alice, "/auth/mfa/disable", password=PASSWORD, code="wrong")
    assert wrong.json["reason"] == "mfa_code_invalid"
    assert post(alice, "/auth/mfa/disable", password=PASSWORD, code=code(secret)).status == 204
    assert "access_token" in login(caller(served)).json


def test_a_lost_phone(home: Home, served: Served, caller: Any) -> None:
    enrol(caller, served)
    assert "may enrol anew" in home.cli("clients", "mfa-reset", "alice").stdout
    assert "access_token" in login(caller(served)).json
    assert "has no second factor" in home.cli("clients", "mfa-reset", "alice").stdout


def test_the_key_is_rotated_and_survives_restarts(home: Home, served: Served, caller: Any) -> None:
    secret, _, _ = enrol(caller, served)
    before = (home.folder / "mfa.key").read_bytes()
    assert home.cli("mfa", "rotate-key").stdout.startswith("1 second factor ")
    assert (home.folder / "mfa.key").read_bytes() != before
    assert (home.folder / "mfa.key").stat().st_mode & 0o777 == 0o600
    served.stop()
    assert home.cli("mfa", "rotate-key").stdout.startswith("1 second factor ")
    again = home.serve()
    nobody = caller(again)
    token = login(nobody).json["mfa_session_token"]
    assert post(nobody, "/auth/login/mfa", mfa_session_token=token, code=code(secret)).status == 200


def test_without_its_key_nothing_starts(home: Home, served: Served, caller: Any) -> None:
    enrol(caller, served)
    served.stop()
    (home.folder / "mfa.key").rename(home.folder / "elsewhere")
    done = home.cli("serve", check=False)
    assert done.returncode == 1
    assert "mfa.key is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_key_is_made_where_nothing_is_sealed(home: Home, caller: Any) -> None:
    (home.folder / "mfa.key").unlink()
    served = home.serve()
    enrol(caller, served)
    assert (home.folder / "mfa.key").stat().st_mode & 0o777 == 0o600


def test_a_wide_key_file_is_refused(home: Home) -> None:
    (home.folder / "mfa.key").chmod(0o644)
    done = home.cli("check", check=False)
    assert done.returncode == 1
    assert re.search(r"mfa\.key has mode 0644.*chmod 600", done.stdout + done.stderr)


def test_a_role_may_demand_it(home: Home, served: Served, caller: Any) -> None:
    home.client("bob", "--role", "guarded", password=PASSWORD)
    first = login(caller(served), "bob").json
    assert first["mfa_enrolment_required"] is True
    assert "refresh_token" not in first
    bob = caller(served, token=first["access_token"])
    assert bob.ask("GET", "/auth/me").json["permissions"] == []
    for method, path in (
        ("GET", "/auth/sessions"),
        ("DELETE", "/auth/sessions"),
        ("GET", "/auth/api-keys"),
        ("POST", "/auth/api-keys"),
        ("POST", "/auth/api-keys/any/rotate"),
        ("POST", "/auth/change-password"),
        ("POST", "/auth/mfa/disable"),
        ("POST", "/auth/mfa/recovery-codes"),
    ):
        refused = bob.ask(method, path, "{}", {"Content-Type": "application/json"})
        assert (refused.status, refused.json["reason"]) == (403, "permission_denied"), path
    secret = post(bob, "/auth/mfa/enrol").json["secret"]
    assert post(bob, "/auth/mfa/confirm", code=code(secret, ahead=-1)).status == 200
    token = login(caller(served), "bob").json["mfa_session_token"]
    done = post(caller(served), "/auth/login/mfa", mfa_session_token=token, code=code(secret))
    assert "refresh_token" in done.json


def test_a_second_step_stays_on_its_certificate(home: Home, served: Served, caller: Any) -> None:
    secret, _, _ = enrol(caller, served)
    with_it = caller(served, home.folder / "clients" / "alice")
    token = login(with_it).json["mfa_session_token"]
    without = post(caller(served), "/auth/login/mfa", mfa_session_token=token, code=code(secret))
    assert (without.status, without.json["reason"]) == (401, "certificate_mismatch")
    assert post(with_it, "/auth/login/mfa", mfa_session_token=token, code=code(secret)).status == 200


def test_another_password_ends_what_was_begun(home: Home, served: Served, caller: Any) -> None:
    secret, _, _ = enrol(caller, served)
    token = login(caller(served)).json["mfa_session_token"]
    home.cli("clients", "set-password", "alice", "--password-stdin", stdin="Walnut-Ferry-42-Loft\n")
    answer = post(caller(served), "/auth/login/mfa", mfa_session_token=token, code=code(secret))
    assert answer.json["reason"] == "mfa_session_invalid"


def test_a_second_factor_that_is_demanded_later_reaches_sessions_that_run(
    home: Home, served: Served, caller: Any
) -> None:
    before = login(caller(served)).json
    home.cli("tenants", "set", "default", "--mfa-required")
    nobody = caller(served)
    refused = post(nobody, "/auth/refresh", refresh_token=before["refresh_token"])
    assert (refused.status, refused.json["error"], refused.json["reason"]) == (
        400,
        "invalid_grant",
        "mfa_required",
    )
    again = nobody.form("/auth/token", grant_type="refresh_token", refresh_token=before["refresh_token"])
    assert again.json["reason"] == "mfa_required"
    first = login(nobody).json
    assert first["mfa_enrolment_required"] is True
    alice = caller(served, token=first["access_token"])
    secret = post(alice, "/auth/mfa/enrol").json["secret"]
    assert post(alice, "/auth/mfa/confirm", code=code(secret, ahead=-1)).status == 200
    late = post(nobody, "/auth/refresh", refresh_token=before["refresh_token"])
    assert late.json["error"] == "invalid_grant", "enrolled now, but that session was begun without"
    token = login(nobody).json["mfa_session_token"]
    done = post(nobody, "/auth/login/mfa", mfa_session_token=token, code=code(secret)).json
    renewed = post(nobody, "/auth/refresh", refresh_token=done["refresh_token"])
    assert renewed.status == 200
    assert post(nobody, "/auth/refresh", refresh_token=renewed.json["refresh_token"]).status == 200


def test_what_is_done_with_second_factors_is_entered_before_it_is_done(
    home: Home, served: Served, caller: Any
) -> None:
    secret, _, alice = enrol(caller, served)
    assert post(alice, "/auth/mfa/disable", password=PASSWORD, code=code(secret)).status == 204
    entries = home.json("audit", "query", "--client", "alice")["entries"]
    said = [each["event"] for each in reversed(entries) if each["event"].startswith("mfa_")]
    assert said == ["mfa_enrolment", "mfa_enabled", "mfa_disabled"]
    assert secret not in json.dumps(entries)
