"""Signing keys: made, rotated beside a running gateway, retired, and what the key set says of them."""

from __future__ import annotations

import json
import secrets
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.commands import ostiary

ASYMMETRIC = ("RS256", "PS256", "ES256", "EdDSA")


def token_of(caller: Any) -> str:
    """A token by the caller's certificate."""
    answer = caller.ask("GET", "/auth/token")
    assert answer.status == 200, answer
    return str(answer.json["access_token"])


def status_with(ask: Any, token: str) -> int:
    """What a request with the token is answered with."""
    return int(ask("GET", "/audit", headers={"Authorization": f"Bearer {token}"}).status)


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def make_key(algorithm: str, file: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``ostiary keys make``, which needs no configuration."""
    done = ostiary("keys", "make", algorithm, str(file))
    if check:
        done.check_returncode()
    return done


def sign_with(home: Any, algorithm: str) -> Path:
    """Have the gateway sign with a new key for that algorithm."""
    file = home.folder / "signing.pem"
    make_key(algorithm, file)
    text = home.config.read_text().replace('secret_file = "secret.key"', 'private_key_file = "signing.pem"')
    home.config.write_text(text.replace("[tokens]\n", f'[tokens]\nalgorithm = "{algorithm}"\n', 1))
    return file


@pytest.fixture
def alice(home: Any) -> Path:
    home.configure('[roles]\nauditor = ["audit:read"]\n')
    return home.client("alice", "--role", "auditor")


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_anybody_can_verify_what_an_asymmetric_key_signed(
    home: Any, alice: Path, caller: Callable[..., Any], algorithm: str
) -> None:
    file = sign_with(home, algorithm)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    served = home.serve()
    one = caller(served, alice)
    token = token_of(one)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    document = one.ask("GET", "/.well-known/jwks.json").json
    assert [(key["kid"], key["alg"], key["use"]) for key in document["keys"]] == [
        (kid_of(token), algorithm, "sig")
    ]
    assert not {"d", "p", "q", "k"} & document["keys"][0].keys()
    public = jwt.PyJWKSet.from_dict(document)[kid_of(token)]
    claims = jwt.decode(token, public.key, [algorithm], audience="https://localhost:8443/mcp")
    assert claims["client_id"] == "alice"
    assert status_with(one.ask, token) == 200


@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
def test_a_rotation_ends_no_token(home: Any, alice: Path, caller: Callable[..., Any], algorithm: str) -> None:
    if algorithm != "HS256":
        sign_with(home, algorithm)
    served = home.serve()
    one = caller(served, alice)
    before = token_of(one)
    assert status_with(one.ask, before) == 200
    rotated = home.json("keys", "rotate")
    assert (rotated["retired_kid"], rotated["server_running"]) == (kid_of(before), True)
    after = token_of(one)
    assert kid_of(after) == rotated["kid"] != kid_of(before)
    assert [status_with(one.ask, token) for token in (before, after)] == [200, 200]
    listed = {key["kid"]: key["state"] for key in home.json("keys", "list")["keys"]}
    assert listed == {kid_of(after): "signs", kid_of(before): "verifies"}
    published = {key["kid"] for key in one.ask("GET", "/.well-known/jwks.json").json["keys"]}
    assert published == (set() if algorithm == "HS256" else {kid_of(before), kid_of(after)})
    assert served.stop() == 0
    again = caller(home.serve(), alice)
    assert [status_with(again.ask, token) for token in (before, after)] == [200, 200]
    assert stat.S_IMODE((home.folder / "retired-keys.json").stat().st_mode) == 0o600
    changes = [entry["method"] for entry in home.json("audit", "query", "--event", "admin_change")["entries"]]
    assert changes[:2] == ["keys.use", "keys.retire"]


def test_a_compromised_key_is_gone_at_once(home: Any, alice: Path, caller: Callable[..., Any]) -> None:
    served = home.serve()
    one = caller(served, alice)
    before = token_of(one)
    assert status_with(one.ask, before) == 200
    rotated = home.json("keys", "rotate", "--compromised")
    assert (rotated["retired_kid"], rotated["revoked"]) == (None, 1)
    assert status_with(one.ask, before) == 401
    assert status_with(one.ask, token_of(one)) == 200
    assert [key["state"] for key in home.json("keys", "list")["keys"]] == ["signs"]


def test_a_key_is_rotated_without_a_server_too(home: Any, alice: Path, caller: Callable[..., Any]) -> None:
    served = home.serve()
    before = token_of(caller(served, alice))
    assert served.stop() == 0
    assert home.json("keys", "rotate")["server_running"] is False
    again = caller(home.serve(), alice)
    assert status_with(again.ask, before) == 200
    assert kid_of(token_of(again)) != kid_of(before)


def test_a_secret_of_the_environment_is_retired_by_hand(
    home: Any, alice: Path, caller: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = home.config.read_text().replace('secret_file = "secret.key"', 'secret_env = "OSTIARY_SECRET_KEY"')
    home.config.write_text(text)
    monkeypatch.setenv("OSTIARY_SECRET_KEY", secrets.token_urlsafe(48))
    served = home.serve()
    before = token_of(caller(served, alice))
    refused = home.cli("keys", "rotate", check=False)
    assert (refused.returncode, "ostiary keys retire" in refused.stderr) == (1, True)
    home.cli("keys", "retire")
    assert served.stop() == 0
    monkeypatch.setenv("OSTIARY_SECRET_KEY", secrets.token_urlsafe(48))
    again = caller(home.serve(), alice)
    assert status_with(again.ask, before) == 200


def test_another_algorithm_ends_no_token_either(home: Any, alice: Path, caller: Callable[..., Any]) -> None:
    served = home.serve()
    before = token_of(caller(served, alice))
    home.cli("keys", "retire")
    assert served.stop() == 0
    sign_with(home, "EdDSA")
    again = caller(home.serve(), alice)
    assert status_with(again.ask, before) == 200
    assert jwt.get_unverified_header(token_of(again))["alg"] == "EdDSA"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ('{"version": 1, "keys": []}', 0o644, "others can get at it"),
        ("{}", 0o600, "is not a file of retired keys"),
        ('{"version": 2, "keys": []}', 0o600, "has version 2"),
        (
            '{"version": 1, "keys": [{"kid": "x", "algorithm": "ES256", "key": "hush", "verify_until": 1}]}',
            0o600,
            "no private key in PEM",
        ),
    ],
)
def test_retired_keys_that_cannot_be_used_stop_the_start(
    home: Any, content: str, mode: int, said: str
) -> None:
    file = home.folder / "retired-keys.json"
    file.write_text(content)
    file.chmod(mode)
    for command in ("serve", "check"):
        done = home.cli(command, check=False)
        assert done.returncode == 1
        assert said in done.stdout + done.stderr
        assert "hush" not in done.stdout + done.stderr


@pytest.mark.parametrize(("made", "wanted"), [("RS256", "ES256"), ("ES256", "EdDSA"), ("EdDSA", "PS256")])
def test_a_key_for_another_algorithm_stops_the_start(home: Any, made: str, wanted: str) -> None:
    sign_with(home, made)
    home.config.write_text(home.config.read_text().replace(f'"{made}"', f'"{wanted}"'))
    done = home.cli("serve", check=False)
    assert done.returncode == 1
    assert f"is not of the kind that {wanted} needs" in done.stderr


def test_no_key_is_made_over_another(home: Any) -> None:
    file = home.folder / "k.pem"
    make_key("ES256", file)
    before = file.read_bytes()
    done = make_key("ES256", file, check=False)
    assert (done.returncode, file.read_bytes()) == (1, before)
    assert "exists already" in done.stderr


def test_what_the_commands_print_holds_no_key(home: Any, alice: Path) -> None:
    secret = (home.folder / "secret.key").read_text().strip()
    said = home.cli("keys", "rotate").stdout + home.cli("keys", "list").stdout
    held = json.loads((home.folder / "retired-keys.json").read_text())["keys"][0]["key"]
    assert held == secret
    for text in (secret, (home.folder / "secret.key").read_text().strip()):
        assert text not in said
