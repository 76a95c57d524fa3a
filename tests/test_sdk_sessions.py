"""Clients' sessions: how many there may be, what they declare, and who hears what upstreams say by themselves."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.values import AccessRule
from gateway.mcp import sessions as sessions_module
from gateway.mcp.announcements import Announcements
from gateway.mcp.catalogue import Catalogue, Kind, Rules
from gateway.mcp.eras import Era
from gateway.mcp.interests import Interests
from gateway.mcp.listeners import Listener, Listeners
from gateway.mcp.lists import Lists
from gateway.mcp.messages import Message, Notification, Params, Reply, Request, RequestId
from gateway.mcp.sealed import Seal
from gateway.mcp.sessions import MAX_WAITING_BYTES, Outbox, Session, Sessions, canonical
from gateway.mcp.upstream import GATEWAY, Fields, ServerInfo, SessionKey
from gateway.model import ANONYMOUS, ClientContext, Deny, Permissions

ALICE = ClientContext(client_id="alice", tenant_id="t", permissions=Permissions(frozenset({"hr:read"})))
BOB = replace(ALICE, client_id="bob")
SALARIES = "file:///hr/salaries"
UPDATED = "notifications/resources/updated"
LOGGED = Notification("notifications/message", {"data": "private"})
ASKED = Request(7, "sampling/createMessage", {})


class Files:
    """An upstream with two resources and a template."""

    name = "files"

    async def describe(self) -> ServerInfo:
        return ServerInfo("2025-11-25", {"resources": {"subscribe": True}})

    @asynccontextmanager
    async def request(
        self, key: SessionKey, method: str, params: Params, fields: Fields = ()
    ) -> AsyncIterator[Any]:
        listed = {
            "resources/list": {
                "resources": [{"uri": uri, "name": uri} for uri in (SALARIES, "file:///news")]
            },
            "resources/templates/list": {
                "resourceTemplates": [{"uriTemplate": "log:///{day}", "name": "log"}]
            },
        }

        class Answer:
            async def receive(self) -> Message:
                return Reply(1, result=msgspec.Raw(json.dumps(listed[method]).encode()))

            async def cancel(self, reason: str) -> None: ...

        yield Answer()

    async def notify(self, key: SessionKey, method: str, params: Params) -> None: ...
    async def respond(self, key: SessionKey, request_id: RequestId, reply: Reply) -> None: ...
    def listen(self, key: SessionKey) -> None: ...
    def unlisten(self, key: SessionKey) -> None: ...
    async def end(self, key: SessionKey) -> None: ...
    async def close(self) -> None: ...


class Counting(Files):
    """One of the modern era, with a tool whose output is no object."""

    counts = "integer"

    async def describe(self) -> ServerInfo:
        return ServerInfo("2026-07-28", {"tools": {}}, era=Era.MODERN)

    @asynccontextmanager
    async def request(
        self, key: SessionKey, method: str, params: Params, fields: Fields = ()
    ) -> AsyncIterator[Any]:
        schemas = {"inputSchema": {"type": "object"}, "outputSchema": {"type": self.counts}}
        result = json.dumps({"tools": [{"name": "count", **schemas}]}).encode()
        yield Mock(receive=AsyncMock(return_value=Reply(1, result=msgspec.Raw(result))))


class World:
    """Sessions that use one upstream, and clients whose permissions may change."""

    def __init__(self, upstream: Files | None = None) -> None:
        public = AccessRule("file:///news", re.compile(fnmatch.translate("file:///news")), ())
        rest = AccessRule("*", re.compile(".*"), ("hr:read",))
        self.catalogue = Catalogue(
            [(upstream or Files(), "", 5.0)],
            Rules(tools=(rest,), resources=(public, rest)),
            monotonic=lambda: 0.0,
        )
        self.sessions = Sessions(monotonic=lambda: 0.0)
        self.listeners, self.interests = Listeners(), Interests()
        self.now: dict[str | None, ClientContext | None] = {}
        self.announcements = Announcements(
            self.catalogue,
            self.sessions,
            Lists(self.catalogue, Seal("", "cursors")),
            self.listeners,
            self.interests,
            current=lambda context: self.now.get(context.client_id, context),
        )

    def open(self, context: ClientContext, *subscribed: str) -> Session:
        session = self.sessions.open(context, None, "2025-11-25", {})
        session.used.add("files")
        for uri in subscribed:
            assert self.interests.take(session, ("files", uri)) is None
        return session

    def updated(self, uri: str, key: SessionKey = GATEWAY) -> None:
        self.announcements.unsolicited("files", key, Notification(UPDATED, {"uri": uri}))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.catalogue.refresh(None)
    yield made
    await made.catalogue.close()


def heard(session: Session | Listener) -> list[Any]:
    """What waits for it now."""
    taken: list[Any] = []

    async def take() -> None:
        while True:
            taken.append(json.loads(await session.outbox.take()))

    taking = take()
    try:
        taking.send(None)
    finally:
        taking.close()
    return taken


class TestUpdates:
    async def test_reach_who_subscribed_and_may_read(self, world: World) -> None:
        alice, bob = world.open(ALICE, SALARIES), world.open(BOB)
        world.updated(SALARIES)
        assert [each["params"] for each in heard(alice)] == [{"uri": SALARIES}]
        assert heard(bob) == []

    async def test_stop_with_the_permission(self, world: World) -> None:
        alice = world.open(ALICE, SALARIES)
        for changed in (replace(ALICE, permissions=Permissions(frozenset())), None):
            world.now["alice"] = changed
            world.updated(SALARIES)
            assert heard(alice) == []
        del world.now["alice"]
        world.updated(SALARIES)
        assert len(heard(alice)) == 1

    async def test_say_nothing_of_parts_that_cannot_be_read(self, world: World) -> None:
        alice = world.open(ALICE, "file:///", "log:///")
        for uri in ("file:///hr/salaries/ceo-bonus", "file:///nothing", "file:///"):
            world.updated(uri)
        assert heard(alice) == []
        world.updated(SALARIES)
        world.updated("log:///monday")
        assert [each["params"]["uri"] for each in heard(alice)] == [SALARIES, "log:///monday"]

    async def test_of_another_upstream_session_are_not_theirs(self, world: World) -> None:
        alice = world.open(ALICE, SALARIES)
        world.updated(SALARIES, SessionKey(("t", "bob")))
        assert heard(alice) == []
        world.updated(SALARIES, alice.key)
        assert len(heard(alice)) == 1

    async def test_without_a_uri_reach_nobody(self, world: World) -> None:
        alice = world.open(ALICE, SALARIES)
        world.announcements.unsolicited("files", alice.key, Notification(UPDATED, {"uri": 5}))
        assert heard(alice) == []

    async def test_are_told_once_to_who_subscribed_to_several_that_hold_it(self, world: World) -> None:
        alice = world.open(ALICE, SALARIES, "file:///hr/", "file:///hr")
        world.updated(SALARIES)
        assert [each["params"] for each in heard(alice)] == [{"uri": SALARIES}]

    async def test_cost_nothing_for_those_who_did_not_subscribe(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alice = world.open(ALICE, SALARIES)
        for all_of_them in (Sessions, Listeners):
            monkeypatch.setattr(
                all_of_them, "__iter__", Mock(side_effect=AssertionError("all are gone through"))
            )
        world.updated(SALARIES)
        assert len(heard(alice)) == 1


def test_what_waits_for_a_client_that_does_not_read_is_bounded_in_bytes_too() -> None:
    outbox = Outbox()
    for number in range(20):
        outbox.put(b"%02d" % number + bytes(100_000))
    assert sum(map(len, outbox._waiting)) <= MAX_WAITING_BYTES
    assert outbox._waiting[-1].startswith(b"19")
    outbox.put(bytes(2 * MAX_WAITING_BYTES))
    assert len(outbox._waiting) == 1  # a single one is kept whole


class TestWhatBelongsToNoRequest:
    async def test_costs_nothing_for_the_sessions_of_others(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alice, bob = world.open(ALICE), world.open(BOB)
        monkeypatch.setattr(Sessions, "__iter__", Mock(side_effect=AssertionError("all are gone through")))
        said = Notification("notifications/message", {"level": "info", "data": "for alice"})
        world.announcements.unsolicited("files", alice.key, said)
        assert (len(heard(alice)), len(heard(bob))) == (1, 0)

    async def test_is_the_clients_own(self, world: World) -> None:
        alice, bob = world.open(ALICE), world.open(BOB)
        world.announcements.unsolicited("files", alice.key, LOGGED)
        assert [each["method"] for each in heard(alice)] == [LOGGED.method]
        assert heard(bob) == []

    @pytest.mark.parametrize("message", [LOGGED, ASKED])
    async def test_reaches_no_anonymous_visitor(self, world: World, message: Notification | Request) -> None:
        visitors = [world.open(ANONYMOUS), world.open(ANONYMOUS)]
        for visitor in visitors:
            visitor.outbox.reader = asyncio.current_task()
        assert visitors[0].key == visitors[1].key
        world.announcements.unsolicited("files", visitors[0].key, message)
        assert [heard(visitor) for visitor in visitors] == [[], []]
        assert not any(visitor.asked for visitor in visitors)

    async def test_anonymous_visitors_hear_of_the_public_resources_to_which_they_subscribed(
        self, world: World
    ) -> None:
        reader, other = world.open(ANONYMOUS, "file:///news", SALARIES), world.open(ANONYMOUS)
        for uri in ("file:///news", SALARIES):
            world.updated(uri, reader.key)
        assert [each["params"]["uri"] for each in heard(reader)] == ["file:///news"]
        assert heard(other) == []

    async def test_a_changed_list_is_told_by_what_the_client_may_see_now(self, world: World) -> None:
        alice = world.open(ALICE)
        alice.listed[Kind.RESOURCE] = hash(
            Lists(world.catalogue, Seal("", "cursors")).visible(Kind.RESOURCE, None, ALICE, Era.LEGACY)
        )
        world.announcements.changed("files")
        assert heard(alice) == []
        world.now["alice"] = None
        world.announcements.changed("files")
        assert heard(alice) == []
        world.now["alice"] = replace(ALICE, permissions=Permissions(frozenset()))
        world.announcements.changed("files")
        assert [each["method"] for each in heard(alice)] == ["notifications/resources/list_changed"]

    async def test_each_era_is_told_of_what_changed_in_the_list_that_it_is_shown(self) -> None:
        upstream = Counting()
        world = World(upstream)
        await world.catalogue.refresh(None)
        lists = Lists(world.catalogue, Seal("", "cursors"))
        session, listener = world.open(ALICE), Listener(1, GATEWAY, None, ALICE, ("t", "alice"))
        world.listeners.add(listener)
        for each in (session, listener):
            each.listed[Kind.TOOL] = hash(lists.visible(Kind.TOOL, None, ALICE, each.era))
        world.announcements.changed("files")
        assert heard(listener) == []
        upstream.counts = "number"  # an output that is no object is not shown to the legacy era
        world.catalogue.renew("files")
        await world.catalogue.refresh(None)
        world.announcements.changed("files")
        assert heard(session) == []
        assert [each["method"] for each in heard(listener)] == ["notifications/tools/list_changed"]
        await world.catalogue.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["roots", "listChanged", "sampling", "tools", "tasks", "requests", "form", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


class TestCapabilities:
    def test_what_mcp_defines_is_kept(self) -> None:
        all_of_them = {
            "elicitation": {"form": {}, "url": {}},
            "roots": {"listChanged": True},
            "sampling": {"context": {}, "tools": {}},
        }
        assert json.loads(canonical(all_of_them)) == all_of_them
        assert canonical({"sampling": {}, "elicitation": {}}) == b'{"elicitation":{},"sampling":{}}'

    def test_the_rest_is_not(self) -> None:
        huge = "a" * 3_900_000
        said = {
            "x": huge,
            "experimental": {huge: {}},
            "extensions": {"y": huge},
            "tasks": {"list": {}, "requests": {"sampling": {"createMessage": {}}}},
            "sampling": {"tools": {"z": huge}, "v": 1},
            "roots": {"listChanged": huge},
            "elicitation": huge,
        }
        assert canonical(said) == b'{"roots":{},"sampling":{"tools":{}}}'

    @given(JSON)
    def test_it_is_small_and_stable_whatever_is_said(self, said: Any) -> None:
        kept = canonical(said)
        assert len(kept) < 1024
        assert canonical(json.loads(kept)) == kept


class TestHowMany:
    def _open(self, sessions: Sessions, context: ClientContext, address: str = "192.0.2.1") -> Session:
        return sessions.open(context, None, "2025-11-25", {"sampling": {}}, address)

    def _known(self, sessions: Sessions, session: Session) -> bool:
        return not isinstance(sessions.get(session.id, session.context, None), Deny)

    def test_anonymous_sessions_declare_nothing_and_share_their_upstream_session(self) -> None:
        sessions = Sessions(monotonic=lambda: 0.0)
        visitor, alice = self._open(sessions, ANONYMOUS), self._open(sessions, ALICE)
        assert visitor.key == SessionKey((None, None))
        assert alice.key == SessionKey(("t", "alice"), b'{"sampling":{}}')

    def test_anonymous_ones_make_room_for_those_of_the_same_network(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions_module, "MAX_SESSIONS_OF_ONE", 3)
        sessions = Sessions(monotonic=lambda: 0.0)
        visitor = self._open(sessions, ANONYMOUS)
        noisy = [self._open(sessions, ANONYMOUS, f"2001:db8::{number}") for number in range(1, 20)]
        assert self._known(sessions, visitor)
        assert [self._known(sessions, each) for each in noisy] == [False] * 16 + [True] * 3

    def test_they_cost_no_client_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions_module, "MAX_ANONYMOUS", 3)
        monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 5)
        sessions = Sessions(monotonic=lambda: 0.0)
        alice = self._open(sessions, ALICE)
        visitors = [self._open(sessions, ANONYMOUS, f"192.0.2.{number}") for number in range(10)]
        assert self._known(sessions, alice)
        assert sum(self._known(sessions, each) for each in visitors) == 3
        more = [self._open(sessions, BOB) for _ in range(4)]
        assert len(sessions) == 5
        assert not any(self._known(sessions, each) for each in visitors)
        assert all(self._known(sessions, each) for each in (alice, *more))
        self._open(sessions, BOB)  # none of nobody's is left: the one that was used least recently
        assert not self._known(sessions, alice)

    def test_an_end_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions_module, "MAX_SESSIONS_OF_ONE", 1)
        departed: list[SessionKey] = []
        sessions = Sessions(monotonic=lambda: 0.0, on_departure=departed.append)
        first = self._open(sessions, ANONYMOUS)
        sessions.end(first)
        sessions.end(first)
        assert departed == [first.key]
        second = self._open(sessions, ANONYMOUS)
        assert self._known(sessions, second)
        third = self._open(sessions, ANONYMOUS)
        assert (self._known(sessions, second), self._known(sessions, third)) == (False, True)
