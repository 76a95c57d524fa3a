"""Rules of ``[[tls.client_id]]`` at a real gateway: the roles that they give, and how long."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable
from typing import Any

PASSWORD = "Quiet-River-42-Stone"
RULE = '[[tls.client_id]]\nfrom = "common_name"\nroles = ["reader", "made"]\n'
ROLES = '[roles]\nreader = ["audit:read"]\nowner = ["platform:hand_over"]\n'


def prepare(home: Any) -> None:
    home.client("alice", password=PASSWORD)
    home.cli("roles", "add", "made", "--permission", "metrics:read")
    home.configure(ROLES + RULE)


def claims(answer: Any) -> dict[str, Any]:
    payload = answer.json["access_token"].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def test_a_rules_roles_are_the_clients_while_it_shows_the_certificate(
    home: Any, caller: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    served = home.serve()
    alice, bare = caller(served, home.folder / "clients/alice"), caller(served)
    assert alice.ask("GET", "/audit").status == 200
    token = alice.ask("GET", "/auth/token")
    assert claims(token)["roles"] == ["reader", "made"]
    assert claims(token)["scope"] == "audit:read metrics:read"
    alice.token = token.json["access_token"]
    assert alice.ask("GET", "/audit").status == 200
    assert alice.ask("GET", "/auth/me").json["roles"] == ["reader", "made"]

    # Without the certificate there is nothing of the rule.
    without = bare.form("/auth/token", username="alice", password=PASSWORD)
    assert (claims(without)["roles"], claims(without)["scope"]) == ([], "")
    more = bare.form("/auth/token", username="alice", password=PASSWORD, scope="audit:read")
    assert (more.status, more.json["error"]) == (400, "invalid_scope")
    bare.token = without.json["access_token"]
    assert bare.ask("GET", "/audit").status == 403
    # The same token over the certificate: the caller has shown both.
    alice.token = bare.token
    assert alice.ask("GET", "/audit").status == 200

    # A role that a rule gives stays; a rule that gives none any more takes effect on open connections.
    kept = home.cli("roles", "remove", "made", check=False)
    assert (kept.returncode, "a rule of [[tls.client_id]] gives the role made" in kept.stderr) == (1, True)
    before = home.config.read_text()
    home.config.write_text(before.replace('"reader", "made"', '"readr"'))
    unknown = home.cli("reload", check=False)
    assert (unknown.returncode, "there is no role readr" in unknown.stderr) == (1, True)
    assert alice.ask("GET", "/audit").status == 200
    home.config.write_text(before.replace(RULE, '[[tls.client_id]]\nfrom = "common_name"\n'))
    served.process.send_signal(signal.SIGHUP)
    wait_until(lambda: alice.ask("GET", "/audit").status == 403)
    alice.token = token.json["access_token"]
    assert alice.ask("GET", "/audit").status == 403
    home.cli("roles", "remove", "made")


def test_a_rule_that_gives_what_is_not_there_starts_no_gateway(home: Any) -> None:
    home.cli("roles", "remove", "made", check=False)
    text = home.config.read_text()
    home.config.write_text(text.replace('"reader", "made"', '"readr"'))
    looked = home.cli("check", check=False)
    assert "[[tls.client_id]] #1 roles: readr is not under [roles]" in looked.stdout + looked.stderr
    done = home.cli("serve", check=False)
    assert (done.returncode, "[[tls.client_id]] #1 roles: there is no role readr" in done.stderr) == (1, True)
    home.config.write_text(text.replace('"reader", "made"', '"owner"'))
    checked = home.cli("check", check=False)
    assert (checked.returncode, "no rule gives what crosses tenants" in checked.stdout + checked.stderr) == (
        1,
        True,
    )
