"""What becomes an entry, what a flood becomes, and what happens when the audit cannot be written."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import FLOOD_BURST, MAX_FLOODS, Audit
from gateway.config.values import OnAuditFailure, Redaction
from gateway.model import ANONYMOUS, ClientContext, Deny, Inbound, Reason, Refused
from persistence.records import AuditEntry, AuditPage, AuditQuery, AuditStatus, ClientRecord, StoreError


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


class BrokenDisk:
    """An audit store whose every write fails: an injected fault."""

    async def append(self, entry: AuditEntry) -> None:
        raise StoreError("no space left")

    def has_room(self) -> bool:
        return True

    def append_soon(self, entry: AuditEntry) -> None:
        raise StoreError("no space left")

    async def begin(self, entry: AuditEntry) -> Any:
        raise StoreError("no space left")

    async def query(self, query: AuditQuery) -> AuditPage:
        return AuditPage((), None)


class Written(BrokenDisk):
    """Keeps what is handed to it."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.room = True
        self.failing = False

    def has_room(self) -> bool:
        return self.room

    def append_soon(self, entry: AuditEntry) -> None:
        if self.failing:
            raise StoreError("no space left")
        self.entries.append(entry)


def _inbound(address: str = "192.0.2.1") -> Inbound:
    return Inbound("r1", "POST", "/mcp", address, "curl/8", None, (), (), 1_000_000.0)


def _audit(store: Any, on_failure: OnAuditFailure = OnAuditFailure.REFUSE) -> tuple[Audit, Clock]:
    clock = Clock()
    return Audit(store, on_failure, now=clock, monotonic=clock), clock


async def test_a_flood_is_summed_up_and_nothing_is_lost() -> None:
    store = Written()
    audit, clock = _audit(store)
    for _ in range(5000):
        audit.refused(_inbound(), Deny(Reason.TOKEN_SIGNATURE, "no"))
        clock.time += 0.001
    await audit.close()
    assert len(store.entries) <= FLOOD_BURST + 6
    assert sum(entry.count for entry in store.entries) == 5000
    assert {(entry.event, entry.reason) for entry in store.entries} == {("auth_failed", "token_signature")}


async def test_a_flood_is_one_entry_a_second() -> None:
    store = Written()
    audit, clock = _audit(store)
    for second in range(8):
        for _ in range(40):
            audit.refused(_inbound(), Deny(Reason.TOKEN_SIGNATURE, "no"))
            clock.time += 0.025
        before = len(store.entries)
        audit._flush()
        assert len(store.entries) == before + 1 == FLOOD_BURST + 1 + second
    await audit.close()
    assert sum(entry.count for entry in store.entries) == 8 * 40


async def test_refusals_wait_for_a_store_that_takes_none() -> None:
    store = Written()
    audit, clock = _audit(store)
    store.failing = True
    for _ in range(FLOOD_BURST + 5):
        audit.refused(_inbound(), Deny(Reason.TOKEN_SIGNATURE, "no"))
    clock.time += 1
    audit._flush()
    assert store.entries == []
    store.failing = False
    audit._flush()
    assert [entry.count for entry in store.entries] == [FLOOD_BURST + 5]
    await audit.close()


async def test_a_flood_from_many_addresses_takes_no_more_memory_than_allowed() -> None:
    store = Written()
    audit, _ = _audit(store)
    for number in range(3 * MAX_FLOODS):
        audit.refused(_inbound(f"192.0.2.{number}"), Deny(Reason.TOKEN_SIGNATURE, "no"))
    assert len(audit._floods) <= MAX_FLOODS + 1
    await audit.close()
    assert sum(entry.count for entry in store.entries) == 3 * MAX_FLOODS


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.floats(0, 2)), max_size=60))
def test_whatever_comes_the_counts_add_up(arrivals: list[tuple[int, str, float]]) -> None:
    async def run() -> None:
        store = Written()
        audit, clock = _audit(store)
        reasons = [Reason.TOKEN_EXPIRED, Reason.TOKEN_REVOKED, Reason.PERMISSION_DENIED, Reason.RATE_LIMITED]
        for reason, client, pause in arrivals:
            audit.refused(_inbound(), Deny(reasons[reason], "no", client_id=client))
            clock.time += pause
        await audit.close()
        for number, reason in enumerate(reasons):
            expected = sum(1 for arrival in arrivals if arrival[0] == number)
            assert sum(entry.count for entry in store.entries if entry.reason == reason) == expected

    asyncio.run(run())


async def test_what_refuses_nobody_is_not_entered() -> None:
    store = Written()
    audit, _ = _audit(store)
    audit.refused(_inbound(), Deny(Reason.UPSTREAM_UNAVAILABLE, "it is down"))
    await audit.close()
    assert store.entries == []


async def test_without_audit_nothing_is_done() -> None:
    audit, _ = _audit(BrokenDisk())
    entry = audit.entry("tool_call", AuditStatus.OK, _inbound(), ANONYMOUS)
    with pytest.raises(Refused) as refused:
        await audit.begin(entry, 0.0)
    assert refused.value.deny.reason is Reason.STORE_UNAVAILABLE
    with pytest.raises(Refused):
        await audit.record(entry)
    audit.refused(_inbound(), Deny(Reason.TOKEN_SIGNATURE, "no"))


async def test_unless_the_configuration_says_to_go_on(caplog: pytest.LogCaptureFixture) -> None:
    audit, _ = _audit(BrokenDisk(), OnAuditFailure.LOG)
    entry = audit.entry("tool_call", AuditStatus.OK, _inbound(), ANONYMOUS)
    await audit.record(entry)
    pending = await audit.begin(entry, 0.0)
    assert pending.finish(AuditStatus.OK)
    assert {record.levelname for record in caplog.records} == {"CRITICAL"}


def test_an_entry_has_the_facts_of_its_request_and_no_more_than_fits() -> None:
    audit, _ = _audit(Written())
    context = ClientContext(client_id="alice", tenant_id="t1", token_id="j1")
    entry = audit.entry("tool_call", AuditStatus.OK, _inbound(), context, tool_name="x" * 10_000)
    assert (entry.client_id, entry.tenant_id, entry.token_id) == ("alice", "t1", "j1")
    assert (entry.address, entry.user_agent, entry.request_id) == ("192.0.2.1", "curl/8", "r1")
    assert entry.timestamp == "1970-01-12T13:46:40.000Z"
    assert len(entry.tool_name or "") == 512


async def test_a_sum_says_only_what_is_true_of_all() -> None:
    store = Written()
    audit, _ = _audit(store)
    for number in range(100):
        inbound = Inbound(
            f"r{number}", "POST", "/mcp", "192.0.2.1", f"agent {number}", None, (), (), 1_000_000.0
        )
        audit.refused(inbound, Deny(Reason.TOKEN_SIGNATURE, "no", client_id="alice"))
    await audit.close()
    held = store.entries[-1]
    assert held.count == 100 - FLOOD_BURST
    assert (held.client_id, held.reason, held.address) == ("alice", "token_signature", "192.0.2.1")
    assert (held.user_agent, held.request_id) == (None, None)


def test_a_client_that_is_known_by_name_alone_is_filed_under_its_tenant() -> None:
    clock = Clock()
    zed = ClientRecord(
        client_id="zed",
        username="zed",
        user_id="u",
        tenant_id="beta",
        created_at="2027-01-15T08:00:00.000Z",
        updated_at="2027-01-15T08:00:00.000Z",
    )
    audit = Audit(Written(), OnAuditFailure.REFUSE, now=clock, monotonic=clock, client_of={"zed": zed}.get)
    assert audit.entry("auth_failed", AuditStatus.FAILED, _inbound(), client_id="zed").tenant_id == "beta"
    assert audit.entry("auth_failed", AuditStatus.FAILED, _inbound(), client_id="who").tenant_id == "default"


async def test_what_rules_keep_out_is_not_written():
    store, clock = Written(), Clock()
    rules = (Redaction("user_agent", None), Redaction("target", re.compile(r"\d+")))
    audit = Audit(store, OnAuditFailure.REFUSE, now=clock, monotonic=clock, redact=rules)
    entry = audit.entry("tool_call", AuditStatus.DENIED, _inbound(), target="/persons/17/notes/4")
    audit.denied(entry)
    audit.denied(msgspec.structs.replace(entry, target=None))
    (one, other) = store.entries
    assert (one.user_agent, one.target) == (None, "/persons/[redacted]/notes/[redacted]")
    assert one == msgspec.structs.replace(entry, user_agent=None, target=one.target)
    assert other.target is None


async def test_without_room_refusals_are_summed_up_until_there_is_some() -> None:
    store = Written()
    audit, _ = _audit(store)
    store.room = False
    for number in range(30):
        audit.refused(_inbound(f"192.0.2.{number}"), Deny(Reason.TOKEN_EXPIRED, "no"))
    audit.refused(_inbound(), Deny(Reason.TOKEN_SIGNATURE, "no"))
    assert store.entries == []
    store.room = True
    async with asyncio.timeout(10):
        while len(store.entries) < 2:  # noqa: ASYNC110 - the flusher runs by itself
            await asyncio.sleep(0.05)
    assert sorted((entry.reason, entry.count, entry.address) for entry in store.entries) == [
        ("token_expired", 30, None),
        ("token_signature", 1, "192.0.2.1"),
    ]
    await audit.close()


async def test_what_was_withheld_is_entered_at_the_stop() -> None:
    store = Written()
    audit, _ = _audit(store)
    store.room = False
    audit.refused(_inbound(), Deny(Reason.TOKEN_EXPIRED, "no"))
    await audit.close()
    assert [(entry.reason, entry.count) for entry in store.entries] == [("token_expired", 1)]
