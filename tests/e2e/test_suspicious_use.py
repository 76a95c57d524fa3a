"""A token that turns up somewhere else raises the alarm, once. Through the real process."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from pathlib import Path
from typing import Any

PASSWORD = "Correct-Horse-7-Staple"


def prepare(home: Any) -> None:
    """Alice has a password, two certificates, and the right to read the audit."""
    home.client("alice", "--permission", "audit:read", password=PASSWORD)
    home.cli("certs", "issue", "alice", "--out", str(home.folder / "clients" / "again"))
    home.client("bob")


def _ask(
    home: Any, served: Any, path: str, *, source: str = "127.0.0.1", client: Path | None = None, **sent: Any
) -> tuple[int, Any]:
    connection = http.client.HTTPSConnection(
        "localhost", served.port, context=home.tls(client), timeout=20, source_address=(source, 0)
    )
    body = urllib.parse.urlencode(sent["form"]) if "form" in sent else None
    headers = {"Authorization": f"Bearer {sent['token']}"} if "token" in sent else {}
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request("GET" if body is None else "POST", path, body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def _signed_in(home: Any, served: Any, **where: Any) -> Any:
    status, tokens = _ask(
        home, served, "/auth/token", form={"username": "alice", "password": PASSWORD}, **where
    )
    assert status == 200, tokens
    return tokens


def _alarms(home: Any) -> list[tuple[str, str, str, str]]:
    """Oldest first."""
    found = home.json("audit", "query", "--event", "suspicious_use")["entries"]
    return [(e["client_id"], e["reason"], e["status"], e["address"]) for e in reversed(found)]


def _second_certificate(home: Any) -> Path:
    """Another folder of alice's: the file names follow the folder's."""
    folder: Path = home.folder / "clients" / "again"
    for suffix in ("pem", "key"):
        (folder / f"alice.{suffix}").rename(folder / f"again.{suffix}")
    return folder


def test_a_new_address_is_an_alarm_once(home: Any, wait_until: Any) -> None:
    served = home.serve()
    token = _signed_in(home, served)["access_token"]
    for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.1"):
        assert _ask(home, served, "/audit", source=source, token=token)[0] == 200
    wait_until(lambda: _alarms(home))
    assert _alarms(home) == [("alice", "new_address", "ok", "127.0.0.2")]
    (warning,) = [line for line in served.log.read_text().splitlines() if "suspicious use" in line]
    assert "WARNING" in warning
    assert "alice" in warning
    assert token not in served.log.read_text()


def test_another_certificate_is_an_alarm_also_where_the_token_is_refused(home: Any, wait_until: Any) -> None:
    served = home.serve()
    first, second = home.folder / "clients" / "alice", _second_certificate(home)
    unbound = _signed_in(home, served)["access_token"]
    assert _ask(home, served, "/audit", token=unbound)[0] == 200
    assert _ask(home, served, "/audit", token=unbound, client=first)[0] == 200
    wait_until(lambda: len(_alarms(home)) == 1)
    bound = _signed_in(home, served, client=first)["access_token"]
    assert _ask(home, served, "/audit", token=bound, client=first)[0] == 200
    for _ in range(3):
        assert _ask(home, served, "/audit", token=bound, client=second)[0] == 401
        assert _ask(home, served, "/audit", token=bound)[0] == 401
    wait_until(lambda: len(_alarms(home)) == 3)
    local = "127.0.0.1"
    assert _alarms(home) == [
        ("alice", "new_certificate", "ok", local),
        ("alice", "new_certificate", "denied", local),
        ("alice", "new_certificate", "denied", local),
    ]


def test_a_refresh_from_somewhere_else_is_an_alarm_and_what_comes_from_it_is_not_another(
    home: Any, wait_until: Any
) -> None:
    served = home.serve()
    tokens = _signed_in(home, served)
    form = {"refresh_token": tokens["refresh_token"]}
    status, renewed = _ask(home, served, "/auth/refresh", source="127.0.0.3", form=form)
    assert status == 200
    assert _ask(home, served, "/audit", source="127.0.0.3", token=renewed["access_token"])[0] == 200
    wait_until(lambda: _alarms(home))
    assert _alarms(home) == [("alice", "new_address", "ok", "127.0.0.3")]


def test_after_a_restart_the_first_use_is_believed_and_a_bound_token_still_knows_its_certificate(
    home: Any, wait_until: Any
) -> None:
    served = home.serve()
    first, second = home.folder / "clients" / "alice", _second_certificate(home)
    token, bound = (_signed_in(home, served, client=where)["access_token"] for where in (None, first))
    served.stop()
    again = home.serve()
    assert _ask(home, again, "/audit", source="127.0.0.4", token=token)[0] == 200
    assert _ask(home, again, "/audit", token=bound, client=second)[0] == 401
    wait_until(lambda: _alarms(home))
    assert _alarms(home) == [("alice", "new_certificate", "denied", "127.0.0.1")]
