"""``ostiary api-keys``: an operator makes, lists, rotates and ends clients' API keys, beside a server and without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Caller, Home, Served

PASSWORD = "Correct-Horse-7-Battery"


def prepare(home: Home) -> None:
    home.cli("tenants", "add", "acme")
    home.cli("clients", "add", "alice", "--permission", "files:read", "--permission", "reports:read")
    home.cli("clients", "add", "bob", "--tenant", "acme", "--permission", "files:read")


def me(caller: Any, served: Served, key: str) -> Any:
    nobody: Caller = caller(served)
    return nobody.ask("GET", "/auth/me", None, {"X-API-Key": key})


@pytest.mark.parametrize("running", [True, False])
def test_a_key_is_made_used_rotated_and_revoked(home: Home, caller: Any, *, running: bool) -> None:
    """Without a server each step is done on the files, and a gateway started afterwards knows of it."""
    served = home.serve() if running else None

    def answer(key: str) -> Any:
        if served is not None:
            return me(caller, served, key)
        now = home.serve()
        told = me(caller, now, key)
        assert now.stop() == 0
        return told

    made = home.json(
        "api-keys", "add", "alice", "--name", "ci", "--scope", "files:read", "--expires-in", "30d"
    )
    assert made["api_key"].startswith(f"{made['prefix']}_")
    shown = answer(made["api_key"])
    assert (shown.status, shown.json["client_id"], shown.json["permissions"]) == (
        200,
        "alice",
        ["files:read"],
    )

    new = home.json("api-keys", "rotate", made["key_id"], "--overlap", "0s")
    assert (new["name"], new["scopes"], new["client_id"]) == ("ci", ["files:read"], "alice")
    assert answer(made["api_key"]).status == 401
    assert answer(new["api_key"]).status == 200

    [listed] = home.json("api-keys", "list", "alice")["api_keys"]
    assert (listed["key_id"], listed["prefix"], "api_key" in listed) == (new["key_id"], new["prefix"], False)
    assert home.json("api-keys", "list", "bob") == {"api_keys": []}
    assert new["prefix"] in home.cli("api-keys", "list").stdout

    assert "is good no more" in home.cli("api-keys", "revoke", new["key_id"]).stdout
    assert answer(new["api_key"]).status == 401
    assert home.json("api-keys", "list") == {"api_keys": []}

    entries = home.json("audit", "query", "--event", "admin_change", "--limit", "1000")["entries"]
    done = [e for e in reversed(entries) if str(e["method"]).startswith("api_keys.")]
    until = made["expires_at"], new["expires_at"]
    assert [(e["method"], e["target"]) for e in done] == [
        ("api_keys.add", f"{made['key_id']}: files:read; until {until[0]}"),
        ("api_keys.rotate", f"{made['key_id']}: {new['key_id']}: files:read; until {until[1]}"),
        ("api_keys.revoke", new["key_id"]),
    ]
    assert {(e["client_id"], e["tenant_id"]) for e in done} == {("alice", "default")}
    assert all(e["actor"] for e in done)
    for file in home.folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert made["api_key"].encode() not in content, file
            assert new["api_key"].encode() not in content, file


def test_a_revoked_key_ends_the_tokens_that_were_had_with_it(home: Home, caller: Any) -> None:
    served = home.serve()
    made = home.json("api-keys", "add", "bob", "--name", "ci")
    form = {"X-API-Key": made["api_key"], "Content-Type": "application/x-www-form-urlencoded"}
    answer = caller(served).ask("POST", "/auth/token", "grant_type=client_credentials", form)
    bob = caller(served, token=answer.json["access_token"])
    assert bob.ask("GET", "/auth/me").json["tenant_id"] == "acme"
    assert home.json("api-keys", "revoke", made["key_id"])["revoked"] == 1
    assert bob.ask("GET", "/auth/me").json["reason"] == "token_revoked"


def test_the_key_is_shown_once_on_the_terminal(home: Home) -> None:
    said = home.cli("api-keys", "add", "alice", "--name", "ci").stdout
    [key] = [word for word in said.split() if word.startswith("osk_")]
    assert "shown this once" in said
    assert key not in home.cli("api-keys", "list").stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("add", "alise", "--name", "x"), 1, "did you mean"),
        (("add", "alice", "--name", "x", "--scope", "audit:read"), 1, "clients show alice"),
        (("add", "alice", "--name", "x", "--scope", "nonsense"), 2, "not a permission"),
        (("add", "alice", "--name", "x", "--expires-in", "soon"), 2, '"30d"'),
        (("add", "alice", "--name", "x", "--expires-in", "9999d"), 2, "3660 days"),
        (("add", "alice", "--name", ""), 2, "1 to 128"),
        (("add", "alice"), 2, "--name"),
        (("rotate", "0000", "--overlap", "31d"), 2, "30 days"),
        (("rotate", "0000"), 1, "no such API key"),
        (("revoke", "0000"), 1, "api-keys list"),
        (("list", "alise"), 1, "did you mean"),
    ],
)
def test_what_cannot_be_says_what_to_do(home: Home, words: tuple[str, ...], code: int, told: str) -> None:
    refused = home.cli("api-keys", *words, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (code, 1), refused.stderr
    assert told in refused.stderr
