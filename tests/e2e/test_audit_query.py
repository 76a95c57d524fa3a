"""``GET /audit``: what is no question is refused."""

from __future__ import annotations

from typing import Any


def prepare(home: Any) -> None:
    """Somebody who may read the audit."""
    home.client("alice", "--permission", "audit:read")


def test_what_cannot_be_asked_is_refused(home: Any, caller: Any) -> None:
    alice = caller(home.serve(), home.folder / "clients" / "alice")
    for query, why in (
        ("status=good", "status is one of: ok, error"),
        ("status=", "status is one of"),
        ("limit=0", "from 1 to 1000"),
        ("limit=1001", "from 1 to 1000"),
        ("limit=x", "from 1 to 1000"),
        ("cursor=nothing", "cursor"),
        ("since=yesterday", "RFC 3339"),
        ("since=20260131T080000Z", "RFC 3339"),
        ("since=2026-01-31T08:00:00+04:00", "%2B"),
        ("colour=red", "Each filter may be there once"),
        ("event=a&event=b", "Each filter may be there once"),
        ("event", "cannot be read"),
    ):
        answer = alice.ask("GET", f"/audit?{query}")
        assert (answer.status, answer.json["reason"]) == (400, "bad_request"), query
        assert why in answer.json["detail"], query
    assert alice.ask("GET", "/audit?status=ok&event=token_issued&limit=1").json["entries"] == []
