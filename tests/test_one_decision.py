"""What is not listed cannot be reached, by any method, in any era: whatever the policy, the offers and the request."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import re
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest
from aiohttp import StreamReader
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.audit import Audit
from gateway.config.values import AccessRule, Anonymous, Denied, McpSettings, OnAuditFailure
from gateway.edge.reply import GatewayRequest
from gateway.mcp import subscriptions
from gateway.mcp.access import Access
from gateway.mcp.breakers import Breakers
from gateway.mcp.catalogue import Catalogue, Rules
from gateway.mcp.endpoint import McpEndpoint
from gateway.mcp.eras import Era
from gateway.mcp.forwarding import Forwarder
from gateway.mcp.held_calls import HeldCalls
from gateway.mcp.input_rounds import InputRounds
from gateway.mcp.interests import MAX_RESOURCES, Interests
from gateway.mcp.listeners import Listeners
from gateway.mcp.lists import Lists
from gateway.mcp.messages import Params, Reply, RequestId
from gateway.mcp.own_answers import OwnAnswers
from gateway.mcp.replies import error_reply
from gateway.mcp.request_state import RequestStates
from gateway.mcp.sealed import Seal
from gateway.mcp.sessions import Sessions
from gateway.mcp.streams import Watch
from gateway.mcp.subscriptions import Subscriptions
from gateway.mcp.tasks import Tasks
from gateway.mcp.upstream import Fields, ServerInfo, SessionKey, UpstreamError
from gateway.model import ANONYMOUS, ClientContext, Inbound, Permissions, Reason
from gateway.problems import Problems

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
LISTS = {
    "tools/list": ("tools", "name"),
    "prompts/list": ("prompts", "name"),
    "resources/list": ("resources", "uri"),
    "resources/templates/list": ("resourceTemplates", "uriTemplate"),
}


@dataclass
class Offering:
    """An upstream with some of each, which remembers what it was asked for."""

    name: str
    eras: frozenset[Era]
    offers: dict[str, list[str]]
    reached: list[tuple[str, str]] = field(default_factory=list)

    @property
    def era(self) -> Era:
        return Era.MODERN if Era.MODERN in self.eras else Era.LEGACY

    async def describe(self) -> ServerInfo:
        capabilities = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "completions": {}}
        return ServerInfo("1", capabilities, instructions="To read, call read.", era=self.era)

    async def era_for(self, key: SessionKey) -> Era:
        return key.era if key.era in self.eras else self.era

    @asynccontextmanager
    async def request(
        self, _key: SessionKey, method: str, params: Params, _fields: Fields = (), _counted: Any = None
    ) -> AsyncIterator[Any]:
        result: dict[str, Any] = {}
        if method in LISTS:
            member, key = LISTS[method]
            schema = {"inputSchema": {"type": "object"}} if member == "tools" else {}
            result = {member: [{"name": one, key: one, **schema} for one in self.offers[member]]}
        else:
            reference = params.get("ref", params)
            self.reached.append((method, reference.get("name", reference.get("uri"))))

        class Answer:
            async def receive(self) -> Reply:
                return Reply(1, result=msgspec.Raw(json.dumps(result).encode()))

        yield Answer()

    def watch(self, uri: str) -> None:
        self.reached.append(("watch", uri))

    def unwatch(self, uri: str) -> None: ...
    async def watched(self, uris: Iterable[str]) -> frozenset[str]:
        return frozenset()

    async def notify(self, key: SessionKey, method: str, params: Params) -> None: ...
    async def respond(self, key: SessionKey, request_id: RequestId, reply: Reply) -> None: ...
    def listen(self, key: SessionKey) -> None: ...
    def unlisten(self, key: SessionKey) -> None: ...
    async def end(self, key: SessionKey) -> None: ...
    async def close(self) -> None: ...


class Paper:
    """An audit in memory."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def has_room(self) -> bool:
        return True

    def append_soon(self, entry: Any) -> None:
        self.entries.append(entry)

    async def begin(self, entry: Any) -> Any:
        self.entries.append(entry)
        return Mock()


class World:
    """An endpoint, and upstreams behind it."""

    def __init__(
        self, upstreams: list[tuple[Offering, str]], rules: Rules, shared: Collection[str] | None = None
    ) -> None:
        self.upstreams = [upstream for upstream, _ in upstreams]
        self.catalogue = catalogue = Catalogue(
            [(upstream, prefix, 5.0) for upstream, prefix in upstreams], rules, monotonic=lambda: 0.0
        )
        audit = Audit(Paper(), OnAuditFailure.REFUSE, now=lambda: 0.0, monotonic=lambda: 0.0)  # type: ignore[arg-type]
        problems, watch = (
            Problems("https://localhost"),
            Watch(lambda _context, _peer: True, lambda _peer: True),
        )
        self.audit, self.listeners, self.interests = audit, Listeners(), Interests()
        self.sessions = sessions = Sessions(
            monotonic=lambda: 0.0,
            on_end=lambda session: self.subscriptions.session_ended(session),  # noqa: PLW0108 - it is made below
            shared=shared,
        )
        lists = Lists(catalogue, Seal("", "cursors"))
        rounds = InputRounds(RequestStates(bytes(32), now=lambda: 0.0), HeldCalls())
        self.tasks = Tasks(Seal("", "task ids"), catalogue)
        self.breakers = breakers = Breakers(self.upstreams, catalogue.invalidate)
        forwarder = Forwarder(catalogue, watch, audit, rounds, self.tasks, breakers=breakers)
        access = Access(catalogue, audit, problems, Denied.HIDE)
        self.subscriptions = Subscriptions(
            catalogue=catalogue,
            sessions=sessions,
            listeners=self.listeners,
            interests=self.interests,
            lists=lists,
            access=access,
            breakers=breakers,
            watch=watch,
            audit=audit,
        )
        self.endpoint = McpEndpoint(
            catalogue=catalogue,
            sessions=sessions,
            forwarder=forwarder,
            access=access,
            own=OwnAnswers(catalogue, sessions, lists, forwarder),
            subscriptions=self.subscriptions,
            tasks=self.tasks,
            watch=watch,
            audit=audit,
            problems=problems,
            settings=McpSettings(anonymous=Anonymous.PUBLIC, denied=Denied.HIDE),
        )

    async def ask(
        self,
        era: Era,
        path: str,
        client: ClientContext,
        method: str,
        params: Params,
        session: str | None = None,
    ) -> Any:
        """The message that answers, and what upstreams were asked for."""
        for upstream in self.upstreams:
            upstream.reached.clear()
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if session is not None:
            headers["Mcp-Session-Id"] = session
        if era is Era.MODERN:
            params = {**params, "_meta": META}
            headers |= {"MCP-Protocol-Version": VERSION, "Mcp-Method": method}
            if method in {"tools/call", "prompts/get", "resources/read"}:
                headers["Mcp-Name"] = params.get("name") or params["uri"]
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        written: list[bytes] = []
        http = _request(path, headers, body, written)
        inbound = Inbound("r", "POST", path, "127.0.0.1", None, None, (), (), 0.0)
        asking = asyncio.ensure_future(self.endpoint.post(http, inbound, client))
        while not asking.done():
            await asyncio.sleep(0)
            if written:  # a subscription: it is open, and would stay so
                self.listeners.end()
        response: Any = asking.result()
        events = [line[6:] for line in b"".join(written).split(b"\n") if line.startswith(b"data: ")]
        answer = json.loads(events[0] if events else response.body)
        return answer, [one for upstream in self.upstreams for one in upstream.reached]


def _request(path: str, headers: dict[str, str], body: bytes, written: list[bytes]) -> GatewayRequest:
    fields = CIMultiDictProxy(CIMultiDict(headers))
    message = RawRequestMessage("POST", path, HttpVersion11, fields, (), False, None, False, False, URL(path))
    loop = asyncio.get_running_loop()
    payload = StreamReader(Mock(_reading_paused=False), 2**16, loop=loop)
    payload.feed_data(body)
    payload.feed_eof()

    async def write(data: bytes) -> None:
        written.append(data)

    async def nothing(*_: Any, **__: Any) -> None: ...

    writer = Mock(
        write=write, write_eof=nothing, write_headers=nothing, drain=nothing, output_size=0, length=None
    )
    task: Any = asyncio.current_task()
    return GatewayRequest(message, payload, Mock(), writer, task, loop)


def _rule(match: str, permissions: list[str]) -> AccessRule:
    return AccessRule(match, re.compile(fnmatch.translate(match)), tuple(permissions))


NAMES = st.lists(st.sampled_from(["read", "write", "b_read", "x"]), unique=True, max_size=3)
URIS = st.lists(st.sampled_from(["d://a", "d://b", "d://a/c", "e://x"]), unique=True, max_size=3)
TEMPLATES = st.lists(st.sampled_from(["d://{id}", "e://{+path}", "d://a/{id}"]), unique=True, max_size=2)
OFFERS = st.fixed_dictionaries(
    {"tools": NAMES, "prompts": NAMES, "resources": URIS, "resourceTemplates": TEMPLATES}
)
ERAS = st.sampled_from([frozenset({Era.LEGACY}), frozenset({Era.MODERN}), frozenset(Era)])
UPSTREAMS = st.lists(st.tuples(OFFERS, ERAS, st.sampled_from(["", "a_", "a_b_"])), min_size=1, max_size=2)
PERMISSIONS = st.lists(st.sampled_from(["a:b", "c:d"]), max_size=2)
NAME_RULES = st.lists(
    st.builds(_rule, st.sampled_from(["*", "a_*", "*read", "x", "a_b_*"]), PERMISSIONS), max_size=3
)
URI_RULES = st.lists(
    st.builds(_rule, st.sampled_from(["*", "d:*", "d://a*", "e://x", "*{*", "d://[{]id}"]), PERMISSIONS),
    max_size=3,
)
CLIENTS = st.sampled_from(
    [ANONYMOUS]
    + [
        ClientContext(client_id="c", permissions=Permissions(frozenset(grants)))
        for grants in ([], ["a:b"], ["a:*", "c:d"], ["*:*"])
    ]
)


@settings(max_examples=60, deadline=None)
@given(UPSTREAMS, NAME_RULES, NAME_RULES, URI_RULES, CLIENTS, st.sampled_from(Era))
def test_what_is_not_listed_is_not_reached(
    offers: list[tuple[dict[str, list[str]], frozenset[Era], str]],
    tools: list[AccessRule],
    prompts: list[AccessRule],
    resources: list[AccessRule],
    client: ClientContext,
    era: Era,
) -> None:
    async def run() -> None:
        upstreams = [
            (Offering(f"u{number}", eras, offered), prefix)
            for number, (offered, eras, prefix) in enumerate(offers)
        ]
        world = World(upstreams, Rules(tuple(tools), tuple(prompts), tuple(resources)))
        for path in ("/mcp", "/mcp/u0"):
            await _explore(world, path, client, era)
        await world.catalogue.close()
        await world.audit.close()

    asyncio.run(run())


async def _explore(world: World, path: str, client: ClientContext, era: Era) -> None:
    listed: dict[str, set[str]] = {}
    for method, (member, key) in LISTS.items():
        answer, _ = await world.ask(era, path, client, method, {})
        listed[member] = {one[key] for one in answer["result"][member]}
        other, _ = await world.ask(Era(({*Era} - {era}).pop()), path, client, method, {})
        assert {one[key] for one in other["result"][member]} == listed[member]
    hello = "server/discover" if era is Era.MODERN else "initialize"
    told, _ = await world.ask(era, path, client, hello, {"protocolVersion": "2025-11-25"})
    has_something = any(listed.values())
    assert ("instructions" in told["result"]) == (has_something and path != "/mcp")
    if not has_something and path != "/mcp":
        assert set(told["result"]["capabilities"]) == {"tools"}, "what the gateway itself has, always"
    names = {"read", "write", "b_read", "x"}
    names |= {prefix + name for name in names for prefix in ("a_", "a_b_")}
    for name in sorted(names):
        for method, member, params in (
            ("tools/call", "tools", {"name": name}),
            ("prompts/get", "prompts", {"name": name}),
            ("completion/complete", "prompts", {"ref": {"type": "ref/prompt", "name": name}}),
        ):
            answer, reached = await world.ask(era, path, client, method, params)
            assert ("result" in answer) == bool(reached) == (name in listed[member]), (method, name)
    for uri in ("d://a", "d://b", "d://a/c", "e://x", "e://y/z", "d://a/../b", "d://%61"):
        reachable = await _reachable(world, path, client, era, uri)
        if uri in listed["resources"]:
            assert reachable
        if reachable and uri not in listed["resources"]:
            assert listed["resourceTemplates"], "only a template that is listed can lead there"
    for template in ("d://{id}", "e://{+path}", "d://a/{id}"):
        params = {"ref": {"type": "ref/resource", "uri": template}}
        answer, reached = await world.ask(era, path, client, "completion/complete", params)
        assert ("result" in answer) == bool(reached) == (template in listed["resourceTemplates"]), template


async def _reachable(world: World, path: str, client: ClientContext, era: Era, uri: str) -> bool:
    """Whether that resource can be read: then it can be subscribed to, and else by no method."""
    answer, reached = await world.ask(era, path, client, "resources/read", {"uri": uri})
    assert ("result" in answer) == bool(reached)
    if era is Era.LEGACY:
        only = path.removeprefix("/mcp").removeprefix("/") or None
        session = world.sessions.open(client, only, "2025-11-25", {})
        subscribed, told = await world.ask(era, path, client, "resources/subscribe", {"uri": uri}, session.id)
        world.sessions.end(session)
        assert ("result" in subscribed) == bool(told) == bool(reached), uri
    else:
        wanted = {"notifications": {"resourceSubscriptions": [uri]}}
        acknowledged, told = await world.ask(era, path, client, "subscriptions/listen", wanted)
        agreed = acknowledged["params"]["notifications"]["resourceSubscriptions"]
        assert (agreed == [uri]) == bool(told) == bool(reached), uri
    reference = {"ref": {"type": "ref/resource", "uri": uri}}
    completed, _ = await world.ask(era, path, client, "completion/complete", reference)
    assert ("result" in completed) == bool(reached), uri
    return bool(reached)


@pytest.mark.parametrize("era", Era)
async def test_what_is_hidden_is_waited_for_as_what_does_not_exist(era: Era) -> None:
    offers = {"tools": ["read"], "prompts": [], "resources": [], "resourceTemplates": []}
    world = World([(Offering("a", frozenset(Era), offers), "")], Rules())
    await world.catalogue.refresh(None)
    waited: list[str | None] = []
    refresh = world.catalogue.refresh

    async def counted(only: str | None) -> None:
        waited.append(only)
        await refresh(only)

    world.catalogue.refresh = counted  # type: ignore[method-assign]
    for name in ("read", "nothing"):
        answer, _ = await world.ask(era, "/mcp", ANONYMOUS, "tools/call", {"name": name})
        assert answer["error"] == {"code": -32602, "message": f"Unknown tool: {name}"}
    assert waited == [None, None]
    await world.catalogue.close()


async def test_a_session_subscribes_to_so_many_resources_and_no_more() -> None:
    offers = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": ["d://{id}"]}
    world = World([(Offering("a", frozenset({Era.LEGACY}), offers), "")], Rules())
    client = ClientContext(client_id="c", permissions=Permissions(frozenset({"*:*"})))
    session = world.sessions.open(client, None, "2025-11-25", {})

    async def ask(method: str, number: int) -> tuple[Any, Any]:
        answer = await world.ask(Era.LEGACY, "/mcp", client, method, {"uri": f"d://{number}"}, session.id)
        return answer[0], answer[1]

    try:
        for number in range(MAX_RESOURCES):
            assert "result" in (await ask("resources/subscribe", number))[0]
        refused, reached = await ask("resources/subscribe", MAX_RESOURCES)
        assert refused["error"] == {
            "code": -32600,
            "message": "You have subscribed to too many resources: leave some.",
        }
        assert reached == []
        assert "result" in (await ask("resources/subscribe", 0))[0]  # it is subscribed to that one already
        assert "result" in (await ask("resources/unsubscribe", 0))[0]
        assert "result" in (await ask("resources/subscribe", MAX_RESOURCES))[0]
        assert len(session.subscribed) == MAX_RESOURCES
    finally:
        await world.catalogue.close()


@pytest.mark.parametrize("era", Era)
async def test_nobody_without_a_session_subscribes_to_a_resource_or_ends_the_subscription_of_another(
    era: Era,
) -> None:
    offers = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": ["d://{id}"]}
    world = World([(Offering("a", frozenset({era}), offers), "")], Rules())
    client = ClientContext(client_id="c", permissions=Permissions(frozenset({"*:*"})))
    session = world.sessions.open(client, None, "2025-11-25", {})
    subscribe = "watch" if era is Era.MODERN else "resources/subscribe"

    async def ask(method: str, session_id: str | None) -> tuple[Any, Any]:
        answer = await world.ask(Era.LEGACY, "/mcp", client, method, {"uri": "d://1"}, session_id)
        return answer[0], answer[1]

    try:
        answer, reached = await ask("resources/subscribe", session.id)
        assert (answer["result"], reached) == ({}, [(subscribe, "d://1")])
        for method in ("resources/subscribe", "resources/unsubscribe"):
            answer, reached = await ask(method, None)
            assert answer["error"] == {
                "code": -32600,
                "message": "Send initialize first: changes are told in a session alone.",
            }
            assert reached == []
    finally:
        await world.catalogue.close()


async def test_a_legacy_upstream_tells_nothing_more_of_what_nobody_wants_to_hear_of() -> None:
    offers = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": ["d://{id}"]}
    upstream = Offering("a", frozenset({Era.LEGACY}), offers)
    world = World([(upstream, "")], Rules())
    client = ClientContext(client_id="c", permissions=Permissions(frozenset({"*:*"})))
    sessions = [world.sessions.open(client, None, "2025-11-25", {}) for _ in range(2)]
    try:
        for session, uris in zip(sessions, (["d://1", "d://2"], ["d://2"]), strict=True):
            for uri in uris:
                await world.ask(Era.LEGACY, "/mcp", client, "resources/subscribe", {"uri": uri}, session.id)
        upstream.reached.clear()
        world.sessions.end(sessions[0])
        await asyncio.sleep(0.01)
        assert upstream.reached == [("resources/unsubscribe", "d://1")]
        world.sessions.end(sessions[1])
        await asyncio.sleep(0.01)
        assert upstream.reached[1:] == [("resources/unsubscribe", "d://2")]
    finally:
        await world.subscriptions.close()
        await world.catalogue.close()


@pytest.mark.parametrize(("shared", "still_wanted"), [(["a"], True), ([], False)])
async def test_a_resource_is_wanted_while_one_of_the_same_upstream_session_wants_it(
    shared: list[str], still_wanted: bool
) -> None:
    world = World([(Offering("a", frozenset({Era.LEGACY}), {}), "")], Rules(), shared)
    alice, bob = (
        world.sessions.open(ClientContext(client_id=name, tenant_id="t"), None, "2025-11-25")
        for name in ("alice", "bob")
    )
    assert world.subscriptions.subscribed(bob, ("a", "d://1")) is None
    assert world.subscriptions.wanted(("a", "d://1"), bob.key)
    assert world.subscriptions.wanted(("a", "d://1"), alice.key) == still_wanted


class Logging(Offering):
    """Notes for which levels it is asked."""

    async def describe(self) -> ServerInfo:
        return ServerInfo("1", {"tools": {}, "logging": {}}, era=self.era)

    async def set_level(self, _key: SessionKey, level: str) -> None:
        self.reached.append(("level", level))


async def test_a_sessions_log_level_is_told_with_each_call_for_the_upstreams_may_be_a_new_one() -> None:
    upstream = Logging("a", frozenset({Era.LEGACY}), {"tools": ["read"], "prompts": [], "resources": []})
    world = World([(upstream, "")], Rules())
    client = ClientContext(client_id="c", permissions=Permissions(frozenset({"*:*"})))
    session = world.sessions.open(client, None, "2025-11-25", {})
    call = ("tools/call", {"name": "read"}, session.id)
    try:
        await world.ask(Era.LEGACY, "/mcp", client, *call)
        assert upstream.reached == [("tools/call", "read")], "it has asked for none"
        await world.ask(Era.LEGACY, "/mcp", client, "logging/setLevel", {"level": "info"}, session.id)
        for _ in range(2):
            upstream.reached.clear()
            await world.ask(Era.LEGACY, "/mcp", client, *call)
            assert upstream.reached == [("level", "info"), ("tools/call", "read")]
        world.breakers["a"].is_open = True
        await world.ask(Era.LEGACY, "/mcp", client, "logging/setLevel", {"level": "debug"}, session.id)
        assert upstream.reached == [], "it would not answer"
    finally:
        await world.catalogue.close()


class Forgetting(Offering):
    """Cannot be reached as often as ``fails`` says."""

    fails = 0

    @asynccontextmanager
    async def request(
        self, key: SessionKey, method: str, params: Params, fields: Fields = (), counted: Any = None
    ) -> AsyncIterator[Any]:
        if self.fails:
            self.fails -= 1
            raise UpstreamError(Reason.UPSTREAM_UNAVAILABLE, "Upstream a cannot be reached.")
        async with super().request(key, method, params, fields, counted) as answer:
            yield answer


@pytest.mark.parametrize(
    ("era", "again"),
    [(Era.LEGACY, ("resources/subscribe", "d://1")), (Era.MODERN, ("watch", "d://1"))],
)
async def test_an_upstream_that_forgot_what_sessions_subscribed_to_is_told_again(
    era: Era, again: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "FIRST_PAUSE", 0.0)
    offers = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": ["d://{id}"]}
    upstream = Forgetting("a", frozenset({Era.LEGACY}), offers)
    world = World([(upstream, "")], Rules(), shared=[])
    alice, bob = (
        ClientContext(client_id=name, tenant_id="t", permissions=Permissions(frozenset({"*:*"})))
        for name in ("alice", "bob")
    )
    try:
        for client, uri in ((alice, "d://1"), (alice, "d://2"), (bob, "d://3")):
            session = world.sessions.open(client, None, "2025-11-25", {})
            await world.ask(Era.LEGACY, "/mcp", client, "resources/subscribe", {"uri": uri}, session.id)
            if uri == "d://2":
                world.sessions.end(session)
        for _ in range(10):
            await asyncio.sleep(0)
        upstream.reached.clear()
        upstream.eras, upstream.fails = frozenset({era}), 3 if era is Era.LEGACY else 0
        world.subscriptions.forgotten("a", SessionKey(("t", "alice")))
        async with asyncio.timeout(10):
            while not upstream.reached or upstream.fails:  # noqa: ASYNC110 - it is asked for what it was told
                await asyncio.sleep(0)
        assert upstream.reached == [again], "neither what nobody wants any more, nor that of others"
        world.subscriptions.forgotten("a", None)
        async with asyncio.timeout(10):
            while len(upstream.reached) < 3:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
        assert set(upstream.reached[1:]) == {again, (again[0], "d://3")}
        upstream.reached.clear()
        world.subscriptions.forgotten("a", session.key)
        world.subscriptions.unsubscribed(session, ("a", "d://3"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert upstream.reached == [], "it was left in time, so there is nothing to begin, or to end"
    finally:
        await world.subscriptions.close()
        await world.catalogue.close()


class Slow(Offering):
    """Ends subscriptions only when it may."""

    may: asyncio.Event

    @asynccontextmanager
    async def request(
        self, key: SessionKey, method: str, params: Params, fields: Fields = (), counted: Any = None
    ) -> AsyncIterator[Any]:
        async with super().request(key, method, params, fields, counted) as answer:
            if method == "resources/unsubscribe":
                await self.may.wait()
            yield answer


async def test_one_that_is_left_again_while_it_is_ended_is_ended_once_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    offers = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": ["d://{id}"]}
    upstream = Slow("a", frozenset({Era.LEGACY}), offers)
    upstream.may = asyncio.Event()
    world = World([(upstream, "")], Rules())
    client = ClientContext(client_id="c", permissions=Permissions(frozenset({"*:*"})))
    try:
        for _ in range(2):
            session = world.sessions.open(client, None, "2025-11-25", {})
            await world.ask(Era.LEGACY, "/mcp", client, "resources/subscribe", {"uri": "d://1"}, session.id)
            world.sessions.end(session)
            await asyncio.sleep(0.01)
        ending = ("resources/unsubscribe", "d://1")
        assert upstream.reached == [("resources/subscribe", "d://1")], "one after another"
        upstream.may.set()
        await asyncio.sleep(0.01)
        assert upstream.reached == [("resources/subscribe", "d://1"), ending]
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
    finally:
        await world.subscriptions.close()
        await world.catalogue.close()


class Refusing(Offering):
    """Tells of no resource, whoever asks."""

    @asynccontextmanager
    async def request(
        self, key: SessionKey, method: str, params: Params, fields: Fields = (), counted: Any = None
    ) -> AsyncIterator[Any]:
        if method == "resources/subscribe":
            yield Mock(receive=AsyncMock(return_value=error_reply(-32602, "no")))
            return
        async with super().request(key, method, params, fields, counted) as answer:
            yield answer

    def unwatch(self, uri: str) -> None:
        self.reached.append(("unwatch", uri))

    async def watched(self, uris: Iterable[str]) -> frozenset[str]:
        return frozenset(uris)


@pytest.mark.parametrize("era", Era)
async def test_what_an_upstream_does_not_tell_of_is_not_subscribed_to(era: Era) -> None:
    offers = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": ["d://{id}"]}
    world = World([(Refusing("a", frozenset({era}), offers), "")], Rules())
    client = ClientContext(client_id="c", permissions=Permissions(frozenset({"*:*"})))
    session = world.sessions.open(client, None, "2025-11-25", {})
    try:
        for number in range(MAX_RESOURCES + 1):
            uri = {"uri": f"d://{number}"}
            answer, _ = await world.ask(Era.LEGACY, "/mcp", client, "resources/subscribe", uri, session.id)
            assert answer["error"]["code"] in {-32602, -32603}, "it is what the upstream says, however often"
        assert not session.subscribed
        if era is Era.MODERN:
            assert ("unwatch", f"d://{MAX_RESOURCES}") in world.upstreams[0].reached, (
                "nor is it asked for again"
            )
    finally:
        await world.catalogue.close()


class Silent(Offering):
    """Answers no subscription."""

    @asynccontextmanager
    async def request(
        self, key: SessionKey, method: str, params: Params, fields: Fields = (), counted: Any = None
    ) -> AsyncIterator[Any]:
        async with super().request(key, method, params, fields, counted) as answer:
            if method == "resources/subscribe":
                raise UpstreamError(Reason.UPSTREAM_TIMEOUT, "late")
            yield answer


@pytest.mark.parametrize(
    ("era", "agreed", "told"), [(Era.LEGACY, [], []), (Era.MODERN, ["d://1"], ["watch"])]
)
async def test_a_subscription_does_not_wait_for_an_upstream_whose_circuit_is_open(
    era: Era, agreed: list[str], told: list[str]
) -> None:
    offers = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": ["d://{id}"]}
    upstream = Offering("a", frozenset({era}), offers)
    upstream.watched = AsyncMock(side_effect=AssertionError("it is waited for"))  # type: ignore[method-assign]
    world = World([(upstream, "")], Rules())
    world.breakers["a"].is_open = True
    client = ClientContext(client_id="c", permissions=Permissions(frozenset({"*:*"})))
    wanted = {"notifications": {"resourceSubscriptions": ["d://1"]}}
    try:
        answer, reached = await world.ask(Era.MODERN, "/mcp", client, "subscriptions/listen", wanted)
        assert answer["params"]["notifications"] == {"resourceSubscriptions": agreed}
        assert [method for method, _uri in reached if method != "resources/unsubscribe"] == told
    finally:
        await world.subscriptions.close()
        await world.catalogue.close()


async def test_a_subscription_waits_once_for_an_upstream_that_does_not_answer() -> None:
    offers = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": ["d://{id}"]}
    world = World([(Silent("a", frozenset({Era.LEGACY}), offers), "")], Rules())
    client = ClientContext(client_id="c", permissions=Permissions(frozenset({"*:*"})))
    wanted = {"notifications": {"resourceSubscriptions": [f"d://{number}" for number in range(20)]}}
    try:
        answer, reached = await world.ask(Era.MODERN, "/mcp", client, "subscriptions/listen", wanted)
        assert answer["params"]["notifications"] == {"resourceSubscriptions": []}
        assert reached == [("resources/subscribe", "d://0")]
    finally:
        await world.subscriptions.close()
        await world.catalogue.close()
