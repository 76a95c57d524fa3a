"""What every store promises, through the protocols alone."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence import open_stores
from persistence.protocols import Stores
from persistence.records import (
    REVOKED_CERTIFICATES,
    AuditEntry,
    AuditPage,
    AuditQuery,
    AuditStatus,
    ClientRecord,
    RevokedCertificate,
    StoreError,
    TokenKind,
    TokenRecord,
)

NOW = 1_800_000_000.0
"""The clock of every store here."""

Open = Callable[[], Awaitable[Stores]]
"""Opens a store; each call the same one, so that the one before must be closed."""


def json_backend(folder: Path) -> Open:
    return lambda: open_stores(folder / "persistence", now=lambda: NOW)


BACKENDS: dict[str, Callable[[Path], Open]] = {"json": json_backend}


@pytest.fixture(params=BACKENDS)
def open_store(request, tmp_path) -> Open:
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
async def stores(open_store):
    opened = await open_store()
    yield opened
    await opened.close()


def client(client_id: str, **more) -> ClientRecord:
    times = {"created_at": "2027-01-15T08:00:00.000Z", "updated_at": "2027-01-15T08:00:00.000Z"}
    return ClientRecord(client_id=client_id, username=client_id, user_id=f"u-{client_id}", **(times | more))


def token(token_id: str, **more) -> TokenRecord:
    fields = {
        "client_id": "reports",
        "kind": TokenKind.ACCESS,
        "exp": int(NOW) + 3600,
        "created_at": "2027-01-15T08:00:00.000Z",
    }
    return TokenRecord(token_id=token_id, **(fields | more))


def entry(event: str = "tool_call", *, second: int = 0, **more) -> AuditEntry:
    fields = {"timestamp": f"2027-01-15T08:00:{second:02d}.000Z", "status": AuditStatus.OK}
    return AuditEntry(event=event, **(fields | more))


async def everything(stores: Stores, **query) -> list[AuditEntry]:
    """All entries that match, oldest first, a small page at a time."""
    entries: list[AuditEntry] = []
    cursor = None
    while True:
        page = await stores.audit.query(AuditQuery(limit=7, cursor=cursor, **query))
        entries.extend(page.entries)
        if page.next_cursor is None:
            return entries[::-1]
        cursor = page.next_cursor


def revoked(revocation_id: str, **more) -> RevokedCertificate:
    return RevokedCertificate(revocation_id=revocation_id, revoked_at="2027-01-15T08:00:00.000Z", **more)


class TestCollections:
    """Any kind will do."""

    async def test_put_inserts_and_replaces(self, stores):
        kept = stores.collection(REVOKED_CERTIFICATES)
        await kept.put(revoked("b"), revoked("a"))
        await kept.put(revoked("b", fingerprint="f"))
        assert list(kept) == [revoked("b", fingerprint="f"), revoked("a")]
        assert kept.get("b") == revoked("b", fingerprint="f")
        assert kept.get("c") is None
        assert len(kept) == 2

    async def test_an_index_follows_its_field(self, stores):
        kept = stores.collection(REVOKED_CERTIFICATES)
        await kept.put(revoked("a", fingerprint="f"), revoked("b", fingerprint="f"))
        await kept.put(revoked("a", fingerprint="g"))
        assert list(kept.where("fingerprint", "f")) == [revoked("b", fingerprint="f")]
        assert list(kept.where("fingerprint", "g")) == [revoked("a", fingerprint="g")]
        await kept.remove("a")
        assert list(kept.where("fingerprint", "g")) == []
        assert kept.get("a") is None

    async def test_removing_what_is_not_there_is_nothing(self, stores):
        kept = stores.collection(REVOKED_CERTIFICATES)
        await kept.remove("a")
        await kept.remove()
        assert len(kept) == 0

    async def test_all_is_there_again(self, open_store):
        stores = await open_store()
        kept = stores.collection(REVOKED_CERTIFICATES)
        await kept.put(revoked("a", fingerprint="f"), revoked("b"))
        await kept.remove("b")
        kept.put_soon(revoked("c", serial_number="01"))
        await stores.close()
        again = await open_store()
        kept = again.collection(REVOKED_CERTIFICATES)
        assert list(kept) == [revoked("a", fingerprint="f"), revoked("c", serial_number="01")]
        assert list(kept.where("serial_number", "01")) == [revoked("c", serial_number="01")]
        await again.close()

    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from([None, "f", "g"]), st.booleans()), max_size=12
        )
    )
    @settings(max_examples=25, deadline=None)
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_it_is_a_dictionary_with_indexes(self, backend, steps):
        async def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                open_store = BACKENDS[backend](Path(folder))
                expected: dict[str, RevokedCertificate] = {}
                stores = await open_store()
                kept = stores.collection(REVOKED_CERTIFICATES)
                for key, fingerprint, remove in steps:
                    if remove:
                        expected.pop(key, None)
                        await kept.remove(key)
                    else:
                        expected[key] = revoked(key, fingerprint=fingerprint)
                        await kept.put(expected[key])
                for _ in range(2):
                    assert {each.revocation_id: each for each in kept} == expected
                    for fingerprint in ("f", "g"):
                        found = {each.revocation_id for each in kept.where("fingerprint", fingerprint)}
                        assert found == {k for k, each in expected.items() if each.fingerprint == fingerprint}
                    await stores.close()
                    stores = await open_store()
                    kept = stores.collection(REVOKED_CERTIFICATES)
                await stores.close()

        asyncio.run(run())


class TestClients:
    async def test_unknown_ones_are_none(self, stores):
        assert stores.clients.get("nobody") is None
        assert stores.clients.by_certificate("nobody") is None
        assert list(stores.clients) == []

    async def test_put_inserts_and_replaces(self, stores):
        await stores.clients.put(client("b"))
        await stores.clients.put(client("a"))
        await stores.clients.put(client("b", roles=("admin",)))
        assert list(stores.clients) == [client("a"), client("b", roles=("admin",))]
        assert stores.clients.get("b") == client("b", roles=("admin",))

    async def test_a_certificate_id_names_its_client(self, stores):
        await stores.clients.put(client("a", certificate="spiffe-a"))
        assert stores.clients.by_certificate("spiffe-a") == client("a", certificate="spiffe-a")
        assert stores.clients.by_certificate("a") is None

    async def test_a_certificate_id_that_is_given_up_is_free(self, stores):
        await stores.clients.put(client("a", certificate="x"))
        await stores.clients.put(client("a", certificate="y"))
        assert stores.clients.by_certificate("x") is None
        await stores.clients.put(client("b", certificate="x"))
        assert stores.clients.by_certificate("x").client_id == "b"
        await stores.clients.put(client("a"))
        assert stores.clients.by_certificate("y") is None

    async def test_a_certificate_id_belongs_to_one_client_even_once_it_is_erased(self, stores):
        await stores.clients.put(client("a", certificate="x", erased_at="2027-01-15T08:00:00.000Z"))
        with pytest.raises(StoreError, match=r"'x'.*'a'"):
            await stores.clients.put(client("b", certificate="x"))
        assert stores.clients.get("b") is None
        assert stores.clients.by_certificate("x").client_id == "a"
        assert stores.healthy

    async def test_of_two_who_want_one_certificate_id_at_once_one_gets_it(self, stores, open_store):
        answers = await asyncio.gather(
            *(stores.clients.put(client(name, certificate="x")) for name in "abc"), return_exceptions=True
        )
        assert [type(answer) for answer in answers].count(StoreError) == 2
        await stores.close()
        again = await open_store()
        assert len(list(again.clients)) == 1
        await again.close()

    async def test_a_cancelled_put_does_not_disturb_the_next(self, stores):
        waiting = asyncio.create_task(stores.clients.put(client("a", certificate="x")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await stores.clients.put(client("a", certificate="x", email="a@example.org"))
        assert stores.clients.by_certificate("x").email == "a@example.org"


class TestTokens:
    async def test_put_inserts_and_replaces(self, stores):
        await stores.tokens.put(token("t1"))
        await stores.tokens.put(token("t2"))
        revoked = token("t1", revoked_at="2027-01-15T08:00:01.000Z")
        await stores.tokens.put(revoked)
        assert stores.tokens.get("t1") == revoked
        assert list(stores.tokens) == [revoked, token("t2")]
        assert stores.tokens.get("t3") is None

    async def test_nothing_is_put(self, stores):
        await stores.tokens.put()
        assert list(stores.tokens) == []

    async def test_by_client_and_family(self, stores):
        await stores.tokens.put(
            token("t1", family_id="f"),
            token("t2", client_id="other", family_id="f"),
            token("t3"),
        )
        assert stores.tokens.of_client("reports") == [token("t1", family_id="f"), token("t3")]
        assert [t.token_id for t in stores.tokens.of_family("f")] == ["t1", "t2"]
        assert not stores.tokens.of_client("nobody")
        assert not stores.tokens.of_family("nothing")

    async def test_a_token_that_moves_is_found_where_it_is(self, stores):
        await stores.tokens.put(token("t", family_id="f"))
        await stores.tokens.put(token("t", family_id="g", client_id="other"))
        assert not stores.tokens.of_family("f")
        assert not stores.tokens.of_client("reports")
        assert [t.token_id for t in stores.tokens.of_family("g")] == ["t"]
        assert [t.token_id for t in stores.tokens.of_client("other")] == ["t"]

    async def test_purge_forgets_what_expired_before(self, stores):
        exp = int(NOW) + 10
        await stores.tokens.put(*(token(f"t{n}", exp=exp + n, family_id="f") for n in range(5)))
        assert stores.tokens.purge(exp) == 0
        assert stores.tokens.purge(exp + 2) == 2
        assert stores.tokens.purge(exp + 2) == 0
        assert [t.token_id for t in stores.tokens] == ["t2", "t3", "t4"]
        assert [t.token_id for t in stores.tokens.of_client("reports")] == ["t2", "t3", "t4"]
        assert [t.token_id for t in stores.tokens.of_family("f")] == ["t2", "t3", "t4"]
        assert stores.tokens.get("t0") is None

    async def test_a_token_whose_expiry_was_moved_expires_then(self, stores):
        await stores.tokens.put(token("t", exp=int(NOW) + 10))
        await stores.tokens.put(token("t", exp=int(NOW) + 20))
        assert stores.tokens.purge(NOW + 15) == 0
        assert stores.tokens.get("t") is not None
        assert stores.tokens.purge(NOW + 25) == 1
        assert stores.tokens.get("t") is None

    async def test_expired_ones_are_gone_after_a_restart(self, stores, open_store):
        await stores.tokens.put(token("old", exp=int(NOW) - 1), token("live"))
        await stores.close()
        again = await open_store()
        assert [t.token_id for t in again.tokens] == ["live"]
        await again.close()

    async def test_a_cancelled_put_does_not_disturb_others(self, stores):
        puts = [asyncio.create_task(stores.tokens.put(token(f"t{n}"))) for n in range(20)]
        await asyncio.sleep(0)
        for put in puts[::2]:
            put.cancel()
        await asyncio.gather(*puts, return_exceptions=True)
        assert all(put.cancelled() for put in puts[::2])
        assert {f"t{n}" for n in range(1, 20, 2)} <= {t.token_id for t in stores.tokens}


class TestAudit:
    async def test_newest_first_in_pages(self, stores):
        for second in range(10):
            await stores.audit.append(entry(second=second))
        page = await stores.audit.query(AuditQuery(limit=4))
        assert page.entries == tuple(entry(second=second) for second in (9, 8, 7, 6))
        page = await stores.audit.query(AuditQuery(limit=4, cursor=page.next_cursor))
        assert page.entries == tuple(entry(second=second) for second in (5, 4, 3, 2))
        page = await stores.audit.query(AuditQuery(limit=4, cursor=page.next_cursor))
        assert page == AuditPage(entries=(entry(second=1), entry(second=0)), next_cursor=None)

    async def test_a_page_that_takes_all_is_the_last(self, stores):
        for second in range(4):
            await stores.audit.append(entry(second=second))
        assert (await stores.audit.query(AuditQuery(limit=4))).next_cursor is None

    async def test_pages_are_stable_while_entries_come(self, stores):
        for second in range(4):
            await stores.audit.append(entry(second=second))
        page = await stores.audit.query(AuditQuery(limit=2))
        await stores.audit.append(entry(second=4))
        rest = await stores.audit.query(AuditQuery(limit=9, cursor=page.next_cursor))
        assert rest.entries == (entry(second=1), entry(second=0))

    async def test_following_gets_each_entry_once_and_in_order(self, stores):
        page = await stores.audit.follow(None, 3)
        assert page.entries == ()
        for second in range(5):
            await stores.audit.append(entry(second=second))
        assert (await stores.audit.follow(None, 2)).entries == (entry(second=3), entry(second=4))
        seen: list[AuditEntry] = []
        while (page := await stores.audit.follow(page.next_cursor, 2)).entries:
            seen += page.entries
        assert seen == [entry(second=second) for second in range(5)]
        await stores.audit.append(entry(second=5))
        page = await stores.audit.follow(page.next_cursor, 2)
        assert page.entries == (entry(second=5),)

    async def test_following_from_what_is_not_there_is_refused(self, stores):
        await stores.audit.append(entry(second=0))
        ahead = (await stores.audit.follow(None, 1)).next_cursor
        for cursor in ("rubbish", base64.urlsafe_b64encode(b"seq:9").decode()):
            with pytest.raises(ValueError, match="cursor"):
                await stores.audit.follow(cursor, 1)
        assert (await stores.audit.follow(ahead, 1)).entries == ()

    async def test_what_was_handed_over_is_found(self, stores):
        stores.audit.append_soon(entry(second=1))
        assert await everything(stores) == [entry(second=1)]

    @pytest.mark.parametrize("field", ["client_id", "event", "tool_name", "tenant_id"])
    async def test_filters(self, stores, field):
        values = ["one", 'a "quoted" one', "two", "ünïcode", "one\n", ""]
        for value in values:
            await stores.audit.append(msgspec.structs.replace(entry(), **{field: value}))
        for value in values:
            found = await everything(stores, **{field: value})
            assert [getattr(one, field) for one in found] == [value]
        assert await everything(stores, **{field: "tw"}) == []

    async def test_filter_by_status(self, stores):
        for status in AuditStatus:
            await stores.audit.append(entry(status=status))
        assert await everything(stores, status="denied") == [entry(status=AuditStatus.DENIED)]

    async def test_a_value_that_looks_like_another_field_does_not_match(self, stores):
        await stores.audit.append(entry(user_agent='","client_id":"admin"', reason='"client_id":"admin"'))
        assert await everything(stores, client_id="admin") == []

    @pytest.mark.parametrize(
        ("since", "until", "seconds"),
        [
            ("2027-01-15T08:00:03.000Z", None, [3, 4, 5]),
            ("2027-01-15T08:00:02.001Z", None, [3, 4, 5]),
            ("2027-01-15T08:00:02.9999Z", None, [3, 4, 5]),
            (None, "2027-01-15T08:00:03Z", [0, 1, 2]),
            (None, "2027-01-15T08:00:03.0001Z", [0, 1, 2, 3]),
            ("2027-01-15T10:00:01+02:00", "2027-01-15T03:00:03-05:00", [1, 2]),
            ("2027-01-15T08:00:03Z", "2027-01-15T08:00:03Z", []),
            ("0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", [0, 1, 2, 3, 4, 5]),
            ("2026-01-15T08:00:03Z", "2028-01-15T08:00:03Z", [0, 1, 2, 3, 4, 5]),
        ],
    )
    async def test_times_are_instants(self, stores, since, until, seconds):
        for second in range(6):
            await stores.audit.append(entry(second=second))
        found = await everything(stores, since=since, until=until)
        assert found == [entry(second=second) for second in seconds]

    @pytest.mark.parametrize(
        "query",
        [
            AuditQuery(since="yesterday"),
            AuditQuery(until="2027-01-15"),
            AuditQuery(until="2027-01-15T08:00:00"),
            AuditQuery(since="0001-01-01T00:00:00+99:00"),
            AuditQuery(cursor="rubbish"),
            AuditQuery(cursor=""),
            AuditQuery(cursor="é"),
            AuditQuery(cursor="c2VxOjk5OTk5OQ"),
            AuditQuery(cursor="c2VxOi0x"),
        ],
    )
    async def test_rubbish_is_refused(self, stores, query):
        await stores.audit.append(entry())
        with pytest.raises(ValueError):
            await stores.audit.query(query)

    async def test_the_limit_is_kept_in_bounds(self, stores):
        for _ in range(1005):
            stores.audit.append_soon(entry())
        assert len((await stores.audit.query(AuditQuery(limit=-5))).entries) == 1
        assert len((await stores.audit.query(AuditQuery(limit=99999))).entries) == 1000

    async def test_an_intent_becomes_one_entry_when_it_is_finished(self, stores):
        intent = await stores.audit.begin(entry(tool_name="files_read"))
        assert await everything(stores) == []
        intent.finish(
            AuditStatus.TIMEOUT, timestamp="2027-01-15T08:00:09.000Z", duration_ms=12.5, reason="slow"
        )
        done = entry(
            tool_name="files_read", second=9, status=AuditStatus.TIMEOUT, duration_ms=12.5, reason="slow"
        )
        assert await everything(stores) == [done]

    async def test_text_that_is_not_unicode_is_audited_all_the_same(self, stores):
        odd = entry(user_agent="a\udcff\n\0b")
        await stores.audit.append(odd)
        stores.audit.append_soon(odd)
        intent = await stores.audit.begin(odd)
        intent.finish(AuditStatus.OK, timestamp=odd.timestamp, duration_ms=1.0, reason="\ud800")
        found = await everything(stores)
        assert [one.user_agent for one in found] == ["a?\n\0b"] * 3
        assert found[2].reason == "?"

    async def test_an_intent_is_finished_once(self, stores):
        intent = await stores.audit.begin(entry())
        intent.finish(AuditStatus.OK, timestamp="2027-01-15T08:00:09.000Z", duration_ms=1.0)
        with pytest.raises(RuntimeError):
            intent.finish(AuditStatus.OK, timestamp="2027-01-15T08:00:09.000Z", duration_ms=1.0)
        assert len(await everything(stores)) == 1

    async def test_an_open_intent_is_interrupted_by_a_stop(self, stores, open_store):
        intent = await stores.audit.begin(entry(client_id="a"))
        done = await stores.audit.begin(entry(client_id="b"))
        done.finish(AuditStatus.OK, timestamp="2027-01-15T08:00:09.000Z", duration_ms=1.0)
        await stores.close()
        with pytest.raises(StoreError):
            intent.finish(AuditStatus.OK, timestamp="2027-01-15T08:00:09.000Z", duration_ms=1.0)
        again = await open_store()
        assert [(one.client_id, one.status, one.reason) for one in await everything(again)] == [
            ("b", AuditStatus.OK, None),
            ("a", AuditStatus.ERROR, "interrupted"),
        ]
        await again.close()

    async def test_a_caller_cancelled_in_begin_leaves_a_cancelled_entry_or_none(self, stores):
        waiting = asyncio.create_task(stores.audit.begin(entry()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await everything(stores) in ([], [entry(status=AuditStatus.CANCELLED)])


class TestClosing:
    async def test_twice_is_once(self, stores):
        await asyncio.gather(stores.close(), stores.close())
        await stores.close()

    async def test_no_writes_afterwards(self, stores):
        await stores.tokens.put(token("t"))
        await stores.close()
        assert not stores.healthy
        assert stores.tokens.get("t") == token("t")
        for write in (
            stores.tokens.put(token("u")),
            stores.clients.put(client("a")),
            stores.audit.append(entry()),
            stores.audit.begin(entry()),
        ):
            with pytest.raises(StoreError):
                await write
        with pytest.raises(StoreError):
            stores.audit.append_soon(entry())

    async def test_writes_that_wait_are_settled(self, stores, open_store):
        puts = [asyncio.create_task(stores.tokens.put(token(f"t{n}"))) for n in range(50)]
        await asyncio.sleep(0)
        await stores.close()
        await asyncio.gather(*puts)
        again = await open_store()
        assert len(list(again.tokens)) == 50
        await again.close()


def operations():
    """Small worlds, so that operations meet."""
    names = st.sampled_from(["a", "b", "c"])
    clients = st.builds(
        client,
        names,
        certificate=st.sampled_from([None, "x", "y"]),
        email=st.none() | st.text(max_size=5),
    )
    tokens = st.builds(
        token,
        st.sampled_from(["t1", "t2", "t3", "t4"]),
        client_id=names,
        family_id=st.sampled_from([None, "f", "g"]),
        exp=st.integers(int(NOW), int(NOW) + 5),
        revoked_at=st.sampled_from([None, "2027-01-15T08:00:01.000Z"]),
        scope=st.text(max_size=5),
    )
    return st.lists(
        st.one_of(
            st.tuples(st.just("client"), clients),
            st.tuples(st.just("tokens"), st.lists(tokens, max_size=3)),
            st.tuples(st.just("append"), st.builds(entry, target=st.text(max_size=5))),
            st.tuples(st.just("append_soon"), st.builds(entry, second=st.integers(0, 59))),
            st.tuples(st.just("begin"), st.builds(entry, tool_name=names)),
            st.tuples(st.just("finish"), st.integers(0, 3)),
            st.tuples(st.just("purge"), st.integers(0, 6)),
            st.tuples(st.just("reopen"), st.none()),
        ),
        max_size=25,
    )


class Model:
    """The state that a store must have."""

    def __init__(self) -> None:
        self.clients: dict[str, ClientRecord] = {}
        self.tokens: dict[str, TokenRecord] = {}
        self.entries: list[AuditEntry] = []
        self.open: list[tuple[AuditEntry, object]] = []

    async def apply(self, stores: Stores, name: str, what) -> None:
        match name:
            case "client":
                taken = any(
                    c.certificate == what.certificate and c.client_id != what.client_id
                    for c in self.clients.values()
                )
                if what.certificate is not None and taken:
                    with pytest.raises(StoreError):
                        await stores.clients.put(what)
                else:
                    await stores.clients.put(what)
                    self.clients[what.client_id] = what
            case "tokens":
                await stores.tokens.put(*what)
                self.tokens |= {one.token_id: one for one in what}
            case "append":
                await stores.audit.append(what)
                self.entries.append(what)
            case "append_soon":
                stores.audit.append_soon(what)
                self.entries.append(what)
            case "begin":
                self.open.append((what, await stores.audit.begin(what)))
            case "finish" if what < len(self.open):
                begun, intent = self.open.pop(what)
                intent.finish(AuditStatus.OK, timestamp=begun.timestamp, duration_ms=1.0)
                self.entries.append(msgspec.structs.replace(begun, duration_ms=1.0))
            case "purge":
                live = {k: t for k, t in self.tokens.items() if t.exp >= NOW + what}
                assert stores.tokens.purge(NOW + what) == len(self.tokens) - len(live)
                self.tokens = live

    def interrupted(self) -> None:
        self.entries += [
            msgspec.structs.replace(begun, status=AuditStatus.ERROR, reason="interrupted")
            for begun, _ in self.open
        ]
        self.open.clear()

    async def check(self, stores: Stores) -> None:
        assert {c.client_id: c for c in stores.clients} == self.clients
        assert {t.token_id: t for t in stores.tokens} == self.tokens
        for name in "abc":
            mine = {t.token_id for t in self.tokens.values() if t.client_id == name}
            assert {t.token_id for t in stores.tokens.of_client(name)} == mine
        for family in "fg":
            members = {t.token_id for t in self.tokens.values() if t.family_id == family}
            assert {t.token_id for t in stores.tokens.of_family(family)} == members
        for certificate in "xy":
            holder = [c for c in self.clients.values() if c.certificate == certificate]
            assert stores.clients.by_certificate(certificate) == (holder[0] if holder else None)
        assert await everything(stores) == self.entries


@pytest.mark.parametrize("backend", BACKENDS)
@given(operations=operations())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_operations_and_restarts_give_the_acknowledged_state(backend, operations):
    async def run(folder: Path) -> None:
        open_store = BACKENDS[backend](folder)
        model = Model()
        stores = await open_store()
        for name, what in [*operations, ("reopen", None)]:
            if name != "reopen":
                await model.apply(stores, name, what)
                continue
            await stores.close()
            model.interrupted()
            stores = await open_store()
            await model.check(stores)
        await stores.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
