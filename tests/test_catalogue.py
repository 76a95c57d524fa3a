"""One decision for everything: what is not listed is not found callable, whatever the policy and the offers."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.values import AccessRule
from gateway.mcp.catalogue import Catalogue, Kind, Rules, decide
from gateway.mcp.messages import Params, Reply, RequestId, encode
from gateway.mcp.offers import MAX_TOLD
from gateway.mcp.templates import MAX_COST, MAX_URI
from gateway.mcp.upstream import Fields, ServerInfo, SessionKey, UpstreamError
from gateway.model import ALLOW, ANONYMOUS, ClientContext, Permissions, Reason


class Scripted:
    """An upstream that offers what it is told to; a fault can be injected."""

    def __init__(self, name: str, tools: list[str], templates: list[str] | None = None) -> None:
        self.name = name
        self.tools = tools
        self.templates = templates or []
        self.resources = ["data://fixed"]
        self.fault: Exception | None = None
        self.raw: bytes | None = None
        """What it answers to every list instead."""
        self.raw_tools: list[object] | None = None
        """What it lists as tools instead."""
        self.asked = 0

    async def describe(self) -> ServerInfo:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return ServerInfo("2025-11-25", {"tools": {}, "resources": {}})

    @asynccontextmanager
    async def request(
        self, _key: SessionKey, method: str, params: Params, _fields: Fields = ()
    ) -> AsyncIterator[Any]:
        result: dict[str, Any]
        match method:
            case "tools/list" if self.raw_tools is not None:
                result = {"tools": self.raw_tools}
            case "tools/list":
                page = int(params.get("cursor", 0))
                result = {"tools": [_tool(name) for name in self.tools[page : page + 2]]}
                if page + 2 < len(self.tools):
                    result["nextCursor"] = str(page + 2)
            case "resources/list":
                result = {"resources": [{"uri": uri, "name": "fixed"} for uri in self.resources]}
            case _:
                result = {"resourceTemplates": [{"uriTemplate": t, "name": t} for t in self.templates]}

        answer = encode(result) if self.raw is None else self.raw

        class Answer:
            async def receive(self) -> Reply:
                return Reply(1, result=msgspec.Raw(answer))

        yield Answer()

    async def notify(self, key: SessionKey, method: str, params: Params) -> None: ...
    async def respond(self, key: SessionKey, request_id: RequestId, reply: Reply) -> None: ...
    def listen(self, key: SessionKey) -> None: ...
    def unlisten(self, key: SessionKey) -> None: ...
    async def end(self, key: SessionKey) -> None: ...
    async def close(self) -> None: ...


def _tool(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


def _rule(match: str, *permissions: str) -> AccessRule:
    return AccessRule(match, re.compile(fnmatch.translate(match)), permissions)


def _catalogue(
    *upstreams: tuple[Scripted, str], rules: Rules | None = None, clock: Clock | None = None
) -> Catalogue:
    return Catalogue(
        [(u, prefix, 5.0) for u, prefix in upstreams], rules or Rules(), monotonic=clock or Clock()
    )


NAMES = st.lists(
    st.sampled_from(["read", "write", "list", "list_all", "b_read", "x"]), unique=True, max_size=5
)
PREFIXES = st.sampled_from(["", "a_", "a_b_", "b_"])
GRANTS = st.frozensets(st.sampled_from(["a:b", "a:*", "*:*", "c:d", "platform:x"]), max_size=3)
RULES = st.lists(
    st.builds(
        lambda match, permissions: _rule(match, *permissions),
        st.sampled_from(["*", "a_*", "*read", "b_*", "a_b_*", "x"]),
        st.lists(st.sampled_from(["a:b", "c:d", "platform:x"]), max_size=2),
    ),
    max_size=4,
)


@settings(max_examples=150)
@given(st.lists(st.tuples(NAMES, PREFIXES), min_size=1, max_size=3), RULES, GRANTS, st.booleans())
def test_not_listed_means_not_callable(
    offers: list[tuple[list[str], str]], rules: list[AccessRule], grants: frozenset[str], anonymous: bool
) -> None:
    context = ANONYMOUS if anonymous else ClientContext(client_id="c", permissions=Permissions(grants))

    async def run() -> None:
        upstreams = [(Scripted(f"u{n}", names), prefix) for n, (names, prefix) in enumerate(offers)]
        catalogue = _catalogue(*upstreams, rules=Rules(tools=tuple(rules)))
        await catalogue.refresh(None)
        for scope in (None, *(upstream.name for upstream, _ in upstreams)):
            listed = {
                entry.name if scope is None else entry.original
                for entry in catalogue.visible(Kind.TOOL, scope, context)
            }
            candidates = {name for names, _ in offers for name in names}
            candidates |= {prefix + name for names, prefix in offers for name in names} | {"nothing"}
            for name in candidates:
                entry = catalogue.find(Kind.TOOL, name, scope)
                callable_ = entry is not None and decide(entry, context) is ALLOW
                assert callable_ == (name in listed), (scope, name)
        await catalogue.close()

    asyncio.run(run())


async def test_lists_are_gathered_page_by_page_in_the_order_of_the_configuration() -> None:
    catalogue = _catalogue((Scripted("one", ["c", "a", "b"]), "1_"), (Scripted("two", ["z"]), "2_"))
    await catalogue.refresh(None)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, None)] == ["1_c", "1_a", "1_b", "2_z"]
    assert catalogue.prefixed("z", "two") == "2_z"


async def test_a_dead_upstream_costs_only_its_own_and_comes_back() -> None:
    clock = Clock()
    good, bad = Scripted("good", ["g"]), Scripted("bad", ["b"])
    catalogue = _catalogue((good, ""), (bad, ""), clock=clock)
    bad.fault = UpstreamError(Reason.UPSTREAM_UNAVAILABLE, "gone")
    await catalogue.refresh(None)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, None)] == ["g"]
    assert catalogue.down() == ("bad",)
    asked = bad.asked
    await catalogue.refresh(None)
    assert bad.asked == asked, "it is not asked again before its pause is over"
    bad.fault = None
    clock.time += 10
    await catalogue.refresh(None)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, None)] == ["g", "b"]
    assert catalogue.down() == ()


async def test_a_changed_list_is_noticed_once() -> None:
    changed: list[str] = []
    upstream = Scripted("u", ["a"])
    catalogue = Catalogue([(upstream, "", 5.0)], Rules(), monotonic=Clock(), on_change=changed.append)
    await catalogue.refresh(None)
    generation = catalogue.generation
    catalogue.invalidate("u")
    await catalogue.refresh(None)
    assert catalogue.generation == generation
    upstream.tools.append("b")
    catalogue.invalidate("u")
    await catalogue.refresh(None)
    assert catalogue.generation == generation + 1
    assert changed == ["u", "u"]


async def test_an_upstream_that_goes_down_is_told_of_and_comes_back_though_nobody_asks_for_it() -> None:
    upstream, changed = Scripted("u", ["a"]), asyncio.Queue[str]()
    catalogue = Catalogue([(upstream, "", 5.0)], Rules(), monotonic=Clock(), on_change=changed.put_nowait)
    await catalogue.refresh(None)
    assert await changed.get() == "u"
    upstream.fault = UpstreamError(Reason.UPSTREAM_UNAVAILABLE, "gone")
    catalogue.invalidate("u")
    assert await changed.get() == "u"
    assert catalogue.entries(Kind.TOOL, None) == []
    upstream.fault = None
    async with asyncio.timeout(10):
        assert await changed.get() == "u"
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, None)] == ["a"]
    await catalogue.close()


class Restless(Scripted):
    """Says that its lists changed whenever it is asked for them, and takes some time."""

    says_so: Callable[[], None]
    seconds: float = 0.01

    async def describe(self) -> ServerInfo:
        self.says_so()
        await asyncio.sleep(self.seconds)
        return await super().describe()


async def _restless() -> tuple[Restless, Catalogue]:
    restless, good = Restless("restless", ["r"]), Scripted("good", ["g"])
    catalogue = Catalogue([(restless, "", 5.0), (good, "g_", 5.0)], Rules(), monotonic=time.monotonic)
    restless.says_so = lambda: catalogue.invalidate("restless")
    async with asyncio.timeout(5):
        await catalogue.refresh(None)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, None)] == ["r", "g_g"]
    return restless, catalogue


async def test_an_upstream_whose_lists_change_whenever_it_is_asked_holds_nobody_up_and_is_given_pauses() -> (
    None
):
    restless, catalogue = await _restless()
    begun = time.monotonic()
    while time.monotonic() < begun + 1.2:
        async with asyncio.timeout(5):
            await catalogue.refresh(None)
        await asyncio.sleep(0.02)
    elapsed = time.monotonic() - begun
    assert 2 <= restless.asked <= 3 + elapsed / 0.5, (
        "at once, at once, and then after pauses of 0.5 s, 1 s, 2 s"
    )
    restless.tools.append("approved")
    restless.seconds = 0
    catalogue.renew("restless")  # by somebody here: that waits for no pause
    await catalogue.refresh(None)
    assert catalogue.find(Kind.TOOL, "approved", None) is not None
    await catalogue.close()


async def test_callers_wait_an_instant_for_a_changed_list_and_then_have_the_one_before() -> None:
    restless, catalogue = await _restless()
    restless.says_so = lambda: None
    await catalogue.refresh(None)
    restless.seconds, restless.tools = 0, ["new"]
    catalogue.renew("restless")
    await catalogue.refresh(None)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, "restless")] == ["new"]
    restless.seconds, restless.tools = 4.0, ["newer"]
    catalogue.renew("restless")
    await catalogue.refresh(None)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, "restless")] == ["new"]
    await catalogue.close()


@pytest.mark.parametrize(
    ("template", "uri", "fits"),
    [
        ("data://item/{name}", "data://item/7", True),
        ("data://item/{name}", "data://item/7/8", False),
        ("data://item/{name}", "data://item/../secret", False),
        ("data://item/{name}", "data://other/7", False),
        ("file:///{+path}", "file:///a/b/c", True),
        ("data://q{?x,y}", "data://q?x=1&y=2", True),
        ("data://{unclosed", "data://x", False),
    ],
)
async def test_a_template_stands_for_what_it_expands_to(template: str, uri: str, *, fits: bool) -> None:
    catalogue = _catalogue((Scripted("u", [], [template]), ""))
    await catalogue.refresh(None)
    assert (catalogue.find_resource(uri, None) is not None) is fits


@pytest.mark.timeout(20)
async def test_an_upstream_with_costly_templates_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    costly = Scripted("costly", [], [f"a{'a{+x}' * 30}{n}" for n in range(2000)] + ["data://{id}"])
    catalogue = _catalogue((costly, ""))
    await catalogue.refresh(None)
    assert catalogue.find_resource("a" * MAX_URI, None) is None
    assert catalogue.find_resource("data://7", None) is not None, "there is room for a simple one"
    assert len(catalogue.entries(Kind.TEMPLATE, None)) == MAX_COST // 60 + 1
    assert catalogue.find_resource("aa" + "a" * 30 + "7", None) is not None
    assert "is left out: with those before it" in caplog.messages[0]


async def test_a_uri_under_a_template_needs_what_its_own_rule_says() -> None:
    rules = Rules(
        resources=(_rule("data://item/secret", "secret:read"), _rule("data://item/*", "items:read"))
    )
    catalogue = _catalogue((Scripted("u", [], ["data://item/{name}"]), ""), rules=rules)
    await catalogue.refresh(None)
    caller = ClientContext(client_id="c", permissions=Permissions(frozenset({"items:read"})))
    allowed, refused = (catalogue.find_resource(f"data://item/{name}", None) for name in ("open", "secret"))
    assert allowed is not None
    assert refused is not None
    assert decide(allowed, caller) is ALLOW
    assert decide(refused, caller) is not ALLOW


TEMPLATES = ["file:///{+path}", "data://item/{name}"]


@pytest.mark.parametrize(
    "uri",
    [
        "file:///pub/../hr/x",
        "file:///pub/./x",
        "file:///..",
        "file:///pub/..?x",
        "file:///pub?/../../hr/x",
        "file:///pub#/../hr/x",
        "file:///pub/..;/hr/x",
        "file:///%68r/x",
        "file:///pub/%2e%2E/hr/x",
        "file:////hr/x",
        "file:///hr//x",
        "file:///hr/x/",
        "file:///hr%2Fx",
        "file:///hr%2fx",
        "file:///hr%5Cx",
        "file:///hr\\x",
        "file:///hr/x%00",
        "file:///hr/x%0a",
        "file:///hr/x\n",
        "file:///hr/x\x7f",
        "file:///hr/x y",
        "file:///hr/\u00e9",
        "file:///hr/\uff0e\uff0e",
        "file:///hr/x%",
        "file:///hr/x%6",
        "file:///hr/x%zz",
        "data://item/..",
        "file:///" + "x" * 2048,
    ],
)
async def test_what_only_a_template_serves_has_one_spelling(uri: str) -> None:
    rules = Rules(resources=(_rule("file:///hr/*", "hr:read"), _rule("*", "pub:read")))
    catalogue = _catalogue((Scripted("u", [], TEMPLATES), ""), rules=rules)
    await catalogue.refresh(None)
    assert catalogue.find_resource(uri, None) is None
    assert catalogue.find_resource(uri, "u") is None
    assert catalogue.find_template(uri, None) is None


@pytest.mark.parametrize(
    "uri",
    ["file:///hr/x", "file:///pub/a.b/..c", "file:///pub/%C3%A9%20x", "file:///a?b=c", "data://item/a~b"],
)
async def test_an_ordinary_uri_is_served_by_a_template(uri: str) -> None:
    catalogue = _catalogue((Scripted("u", [], TEMPLATES), ""))
    await catalogue.refresh(None)
    assert catalogue.find_resource(uri, None) is not None


async def test_a_listed_resource_may_be_spelled_in_any_way() -> None:
    upstream = Scripted("u", [], ["data://{+any}"])
    odd = "data://x/../%68//" + "y" * 3000
    upstream.resources = [odd]
    catalogue = _catalogue((upstream, ""))
    await catalogue.refresh(None)
    entry = catalogue.find_resource(odd, None)
    assert entry is not None
    assert entry.kind is Kind.RESOURCE


@pytest.mark.parametrize(
    "raw",
    [
        b'{"tools": [{"name": "\xff\xfe"}]}',
        b'{"tools": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"tools": 5}',
        b"not JSON",
    ],
)
async def test_an_upstream_whose_lists_cannot_be_read_is_down(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = Scripted("good", ["g"]), Scripted("bad", ["b"])
    bad.raw = raw
    catalogue = _catalogue((bad, ""), (good, ""))
    await catalogue.refresh(None)
    assert catalogue.down() == ("bad",)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, None)] == ["g"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    await catalogue.close()


async def test_an_unforeseen_fault_costs_only_its_upstream(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    good, bad = Scripted("good", ["g"]), Scripted("bad", ["b"])
    bad.fault = ZeroDivisionError("unforeseen")
    catalogue = _catalogue((bad, ""), (good, ""), clock=clock)
    await catalogue.refresh(None)
    assert catalogue.down() == ("bad",)
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)
    bad.fault = None
    clock.time += 10
    await catalogue.refresh(None)
    assert catalogue.down() == ()


async def test_a_tool_with_two_definitions_is_left_out_before_it_is_asked_whether_it_is_admitted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream = Scripted("u", [])
    upstream.raw = encode(
        {
            "tools": [
                _tool("twin", description="harmless"),
                _tool("same", description="one"),
                _tool("twin", description="not so"),
                _tool("same", description="one"),
            ]
        }
    )
    asked: list[str] = []

    class Everything:
        def admits(self, _upstream: str, kind: str, definition: Any) -> bool:
            asked.append(definition["name"])
            return True

        def gathered(self, upstream: str, listed: Any) -> None:
            assert set(listed) == {("tool", "twin"), ("tool", "same")}

    catalogue = Catalogue([(upstream, "", 5.0)], Rules(), monotonic=Clock(), approval=Everything())
    upstream_info = ServerInfo("2025-11-25", {"tools": {}})

    async def describe() -> ServerInfo:
        return upstream_info

    upstream.describe = describe  # type: ignore[method-assign]
    await catalogue.refresh(None)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, None)] == ["same"]
    assert asked == ["same"]
    assert caplog.messages == ["upstream u: the tool 'twin' is left out: it has two definitions"]
    await catalogue.close()


async def test_a_malformed_definition_costs_itself_alone_and_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream = Scripted("u", ["good"])
    catalogue = _catalogue((upstream, ""))
    wrong = [{"name": "bad"}, _tool("worse\n", description=5), 5, {}]
    upstream.raw_tools = [*wrong, _tool("good")]
    for _ in range(2):
        catalogue.invalidate("u")
        await catalogue.refresh(None)
    assert [entry.name for entry in catalogue.entries(Kind.TOOL, None)] == ["good"]
    assert catalogue.find(Kind.TOOL, "bad", "u") is None
    assert catalogue.down() == ()
    assert caplog.messages == [
        "upstream u: the tool 'bad' is left out: it is malformed: Object missing required field `inputSchema`",
        "upstream u: the tool 'worse\\n' is left out: it is malformed: Expected `str`, got `int` - at `$.description`",
        "upstream u: a tool is left out: it is not an object",
        "upstream u: a tool is left out: it is malformed: Object missing required field `name`",
    ]
    upstream.raw_tools = [{"name": f"bad{number}"} for number in range(1000)]
    catalogue.renew("u")
    await catalogue.refresh(None)
    assert len(caplog.messages) == MAX_TOLD + 1
    assert caplog.messages[-1] == "upstream u: more than that is left out, of which nothing is said any more"
    await catalogue.close()
