"""Guessing passwords, over real TLS and from several addresses of the loopback network."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Answer, Caller, Home, Served

PASSWORD = "Purple-Kettle-81-Moor"
WRONG = "Wrong-Password-1!"
HOME_ADDRESS = "127.0.0.20"


def prepare(home: Home) -> None:
    home.client("alice", password=PASSWORD)
    home.client("bob", password=PASSWORD)
    home.certificate("root")
    home.cli("clients", "disable", "bob")
    home.configure("", settings={"limits": {"login_per_minute": 1000}, "accounts": {"lockout_after": 3}})


@pytest.fixture
def served(home: Home) -> Served:
    return home.serve()


def login(caller: Caller, name: str = "alice", password: str = PASSWORD) -> Answer:
    body = json.dumps({"username": name, "password": password})
    return caller.ask("POST", "/auth/login", body, {"Content-Type": "application/json"})


def reasons(caller: Caller, times: int, name: str = "alice") -> list[str]:
    return [login(caller, name, WRONG).json["reason"] for _ in range(times)]


LOCKS = ["invalid_credentials"] * 3 + ["rate_limited"]


def test_a_lock_out_outlives_the_process_and_is_ended_by_an_administrator(
    home: Home, served: Served, caller: Any, wait_until: Any
) -> None:
    assert reasons(caller(served), 4) == LOCKS
    root = caller(served, home.folder / "clients" / "root")
    [before] = wait_until(lambda: root.ask("GET", "/admin/api/lockouts").json["lockouts"])
    served.kill()
    again = home.serve()
    refused = login(caller(again))
    assert (refused.status, refused.json["reason"]) == (429, "rate_limited")
    assert 0 < int(refused.headers["retry-after"]) <= 30
    root = caller(again, home.folder / "clients" / "root")
    [listed] = root.ask("GET", "/admin/api/lockouts?client_id=alice").json["lockouts"]
    assert listed == before
    assert (listed["scope"], listed["client_id"], listed["count"]) == ("account_at_address", "alice", 3)
    one = f"/admin/api/lockouts/{listed['lockout_id']}"
    assert root.ask("GET", one).json == listed
    assert [root.ask("DELETE", one).status for _ in range(2)] == [204, 404]
    assert login(caller(again)).status == 200
    [entry] = root.ask("GET", "/audit?event=locked_out").json["entries"]
    assert (entry["client_id"], entry["reason"], entry["status"]) == ("alice", "account_at_address", "denied")
    assert entry["address"] == "127.0.0.1"
    ended = root.ask("GET", "/audit?event=admin_change&client_id=root&limit=1").json["entries"][0]
    assert (ended["method"], ended["target"]) == ("lockouts.end", "alice")
    assert "too many wrong passwords for client alice from 127.0.0.1: locked there for" in (
        served.log.read_text()
    )


def test_the_command_line_ends_all_of_a_clients_lock_outs(home: Home, served: Served, caller: Any) -> None:
    assert "was not locked out" in home.cli("clients", "unlock", "alice").stdout
    assert reasons(caller(served, address="127.0.0.30"), 4) == LOCKS
    assert reasons(caller(served, address="127.0.0.31"), 2) == ["invalid_credentials", "rate_limited"]
    table = home.cli("lockouts", "list").stdout
    assert "account at this address" in table
    assert "account, from anywhere new" in table
    assert home.cli("clients", "unlock", "alice").stdout == "alice is unlocked.\n"
    assert home.json("lockouts", "list")["lockouts"] == []
    assert login(caller(served, address="127.0.0.30")).status == 200
    gone = home.cli("lockouts", "end", "0" * 32, check=False)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "no such lock-out" in gone.stderr


def test_guessing_elsewhere_does_not_lock_the_owner_out(home: Home, served: Served, caller: Any) -> None:
    owner = caller(served, address=HOME_ADDRESS)
    assert login(owner).status == 200
    assert reasons(caller(served, address="127.0.0.40"), 4) == LOCKS
    assert login(caller(served, address="127.0.0.41")).status == 200, "one address harms itself alone"
    for number in range(50, 53):
        assert reasons(caller(served, address=f"127.0.0.{number}"), 1) == ["invalid_credentials"]
    new = login(caller(served, address="127.0.0.60"))
    assert (new.status, new.json["reason"]) == (429, "rate_limited"), "many addresses slow down what is new"
    assert login(owner).status == 200
    certified = caller(served, home.folder / "clients" / "alice", address="127.0.0.60")
    assert login(certified).status == 200
    assert "from several addresses" in served.log.read_text()


def test_nothing_tells_unknown_disabled_and_wrong_apart(served: Served, caller: Any) -> None:
    transcripts = []
    for number, name in enumerate(("alice", "bob", "zoe")):
        one = caller(served, address=f"127.0.0.{70 + number}")
        answers = [login(one, name, WRONG) for _ in range(3)] + [login(one, name)]
        transcripts.append([_without_the_moment(answer) for answer in answers])
    assert transcripts[0] == transcripts[1] == transcripts[2]
    assert [status for status, _, _ in transcripts[0]] == [401, 401, 401, 429]


def test_nobody_tells_that_somebody_was_erased(
    home: Home, served: Served, caller: Any, wait_until: Any
) -> None:
    assert reasons(caller(served, address="127.0.0.80"), 4) == LOCKS
    home.cli("clients", "erase", "alice")
    transcripts = []
    for number, name in enumerate(("alice", "never-there")):
        one = caller(served, address=f"127.0.0.{81 + number}")
        answers = [login(one, name, WRONG) for _ in range(3)] + [login(one, name)]
        transcripts.append([_without_the_moment(answer) for answer in answers])
    assert transcripts[0] == transcripts[1]
    kept = home.folder / "persistence" / "lockouts.json"
    wait_until(lambda: len(json.loads(kept.read_text())["lockouts"]) >= 2)
    records = json.loads(kept.read_text())["lockouts"]
    assert {record["client_id"] for record in records} == {None}
    text = "account_at_address\0alice\x00127.0.0.81"
    assert hashlib.sha256(text.encode()).hexdigest()[:32] not in kept.read_text(), "nobody tests a guess"


def test_a_password_in_the_field_of_the_name_is_not_entered(home: Home, served: Served, caller: Any) -> None:
    one = caller(served)
    assert login(one, "Al!ce-Passw0rd-X", "alice").status == 401
    assert login(one, "no-such-name", WRONG).status == 401
    failed = home.json("audit", "query", "--event", "auth_failed")["entries"]
    assert [entry["client_id"] for entry in failed] == ["no-such-name", None]
    served.stop()
    for file in home.folder.rglob("*"):
        assert not file.is_file() or b"Al!ce-Passw0rd-X" not in file.read_bytes(), file


def _without_the_moment(answer: Answer) -> tuple[int, dict[str, str], dict[str, Any]]:
    headers = {k: v for k, v in answer.headers.items() if k not in {"date", "x-request-id"}}
    return answer.status, headers, {**answer.json, "request_id": ""}


def test_a_tenants_administrator_sees_the_lock_outs_of_its_clients_alone(
    home: Home, served: Served, caller: Any
) -> None:
    home.cli("tenants", "add", "acme")
    home.client("carol", "--tenant", "acme", password=PASSWORD)
    chief = home.client("chief", "--tenant", "acme", "--role", "admin")
    for name in ("alice", "carol", "nobody"):
        assert reasons(caller(served), 4, name) == LOCKS
    listed = caller(served, chief).ask("GET", "/admin/api/lockouts").json["lockouts"]
    assert [each["client_id"] for each in listed] == ["carol"]
    others = [each for each in home.json("lockouts", "list")["lockouts"] if each["client_id"] != "carol"]
    assert {each["client_id"] for each in others} == {"alice", None}
    for each in others:
        one = caller(served, chief)
        assert one.ask("DELETE", f"/admin/api/lockouts/{each['lockout_id']}").status == 404
