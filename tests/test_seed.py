"""``ostiary seed``: what a file says is made, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SEED = """
[[tenants]]
tenant = "acme"
name = "Acme Ltd"

[[roles]]
role = "auditor"
tenant = "acme"
permissions = ["audit:read"]

[[clients]]
name = "alice"
tenant = "acme"
roles = ["admin", "auditor"]
password_file = "alice.password"

[[clients]]
name = "agent"
certificate = "agent-7"
require_certificate = true
permissions = ["files:read"]

[[api_keys]]
client = "agent"
name = "nightly"
scopes = ["files:read"]
expires_in = "30d"
key_file = "nightly.key"

[[invitations]]
name = "first analyst"
tenant = "acme"
roles = ["auditor"]
code_file = "analyst.code"
"""


@pytest.fixture
def file(home: Any) -> Path:
    path = Path(home.folder / "seed.toml")
    path.write_text(SEED)
    password = home.folder / "alice.password"
    password.write_text("Correct-Horse-7-Battery\n")
    password.chmod(0o600)
    return path


def _outcomes(home: Any, file: Path) -> tuple[int, set[str]]:
    said = home.json("seed", str(file))
    return said["changed"], {each["outcome"] for each in said["seeded"]}


@pytest.mark.parametrize("served", [False, True])
def test_a_second_run_changes_nothing_and_says_so(home: Any, file: Path, *, served: bool) -> None:
    if served:
        home.serve()
    assert _outcomes(home, file) == (6, {"added"})
    made = {name: (home.folder / name).read_text() for name in ("nightly.key", "analyst.code")}
    assert {(home.folder / name).stat().st_mode & 0o777 for name in made} == {0o600}
    entries = home.json("audit", "query")["entries"]
    assert _outcomes(home, file) == (0, {"unchanged"})
    assert home.json("audit", "query")["entries"] == entries
    assert "Nothing to change" in home.cli("seed", str(file)).stdout
    assert {name: (home.folder / name).read_text() for name in made} == made
    alice = home.json("clients", "show", "alice")["client"]
    assert (alice["tenant_id"], alice["has_password"]) == ("acme", True)
    file.write_text(SEED.replace('"audit:read"', '"audit:read", "files:read"'))
    assert _outcomes(home, file) == (1, {"unchanged", "changed"})


def test_a_clients_certificate_is_brought_to_what_the_file_says(home: Any, file: Path) -> None:
    for said, certificate, required, outcome in (
        ("", "zoe", False, "added"),
        ('certificate = "zoe-2"\nrequire_certificate = true', "zoe-2", True, "changed"),
        ('certificate = "zoe-2"\nrequire_certificate = true', "zoe-2", True, "unchanged"),
        ("", "zoe-2", True, "unchanged"),
        ('certificate = "none"\nrequire_certificate = false', None, False, "changed"),
        ('certificate = "none"', None, False, "unchanged"),
    ):
        file.write_text(f'[[clients]]\nname = "zoe"\n{said}\n')
        assert _outcomes(home, file)[1] == {outcome}, said
        zoe = home.json("clients", "show", "zoe")["client"]
        assert (zoe["certificate"], zoe["require_certificate"]) == (certificate, required)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[clients]]\nname = "a"\npassword = "x"\n', "a password does not belong here"),
        ('[[clients]]\nnam = "a"\n', "unknown field"),
        ("[[clients]\n", "is not TOML"),
        ('[[clients]]\nname = "a"\ntenant = "nobody"\n', "there is no tenant"),
        ('[[clients]]\nname = "a"\npassword_env = "NOT_SET_ANYWHERE"\n', "is not set"),
        ('[[clients]]\nname = "a"\npassword_file = "wide"\n', "chmod 600"),
        ('[[roles]]\nrole = "admin"\npermissions = ["a:b"]\n', "in the configuration"),
        ('[[clients]]\nname = "a"\npassword_env = "A"\npassword_stdin = true\n', "one of password_file"),
        ('[[api_keys]]\nclient = "nobody"\nname = "x"\nkey_file = "x"\n', "no client of that name"),
        ('[[api_keys]]\nclient = "root"\nname = "x"\nkey_file = "x"\nexpires_in = "soon"\n', "a duration"),
        ('[[api_keys]]\nclient = "root"\nname = "x"\n', "key_file"),
        ('[[invitations]]\nname = "x"\ncode_file = "x"\nroles = ["nobody"]\n', "no role"),
        ('[[invitations]]\nname = "x"\ncode_file = "x"\ndays = 0\n', "1 to 365 days"),
        ("clients = 5\n", "Expected `array`"),
        ('[[clients]]\nname = "a"\n[[clients]]\nname = "a"\nroles = ["x"]\n', "client a: here twice"),
        ('[[clients]]\nname = "a"\n[[clients]]\nname = "b"\nroles = ["x"]\n', "client b: no such role"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(home: Any, file: Path, text: str, told: str) -> None:
    (home.folder / "wide").write_text("Correct-Horse-7-Battery")
    (home.folder / "wide").chmod(0o644)
    file.write_text(text)
    refused = home.cli("seed", str(file), check=False)
    assert refused.returncode == 1
    assert told in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_seeded_invitation_that_was_used_is_not_made_anew(home: Any, file: Path, caller: Any) -> None:
    home.configure("", settings={"accounts": {"register": "invitation"}})
    said = home.cli("seed", str(file)).stdout
    code = (home.folder / "analyst.code").read_text().strip()
    assert code not in said
    served = home.serve()
    account = {"username": "zoe", "password": "Correct-Horse-7-Battery", "invitation": code}
    headers = {"Content-Type": "application/json"}
    answer = caller(served).ask("POST", "/auth/register", json.dumps(account), headers)
    assert (answer.status, answer.json["tenant_id"], answer.json["roles"]) == (201, "acme", ["auditor"])
    (home.folder / "analyst.code").unlink()
    assert _outcomes(home, file) == (0, {"unchanged"})
    assert not (home.folder / "analyst.code").exists()


def test_an_earlier_secret_is_not_written_over(home: Any, file: Path) -> None:
    (home.folder / "nightly.key").write_text("an earlier one")
    refused = home.cli("seed", str(file), check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "move it away" in refused.stderr
    assert home.json("api-keys", "list") == {"api_keys": []}


def test_a_secret_that_cannot_be_written_down_is_not_left_behind(home: Any, file: Path) -> None:
    file.write_text(SEED.replace("nightly.key", "no/such/folder/nightly.key"))
    refused = home.cli("seed", str(file), check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "cannot be written" in refused.stderr
    assert home.json("api-keys", "list") == {"api_keys": []}


def test_wrong_words_are_found_before_anything_is_done(home: Any, file: Path) -> None:
    file.write_text(f'{SEED}\n[[clients]]\nname = "a b"\n')
    assert home.cli("seed", str(file), check=False).returncode == 1
    assert "acme" not in home.cli("tenants", "list").stdout


def test_a_setting_that_the_file_does_not_name_stays(home: Any, file: Path) -> None:
    home.cli("seed", str(file))
    home.cli("tenants", "set", "acme", "--mfa-required")
    assert _outcomes(home, file) == (0, {"unchanged"})
    file.write_text(SEED.replace("Acme Ltd", "Acme plc"))
    assert _outcomes(home, file) == (1, {"unchanged", "changed"})
    tenant = home.json("tenants", "show", "acme")["tenant"]
    assert (tenant["name"], tenant["settings"]["mfa_required"]) == ("Acme plc", True)
    file.write_text(SEED.replace('name = "Acme Ltd"', "mfa_required = false"))
    assert _outcomes(home, file) == (1, {"unchanged", "changed"})
    assert home.json("tenants", "show", "acme")["tenant"]["settings"]["mfa_required"] is False
