"""Tenants at the MCP endpoint and on the command line: tenants x roles x objects, and nothing crosses.

``test_tenants`` has the same for the admin API, the audit and the token endpoints.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.operations.administration import OperationError
from gateway.operations.control import ask
from tests.conftest import Caller, Home, Served
from tests.modern import Modern, messages

SCRIPT = Path(__file__).resolve().parent.parent / "servers" / "everything.py"
TENANTS = ("red", "blue")
MEMBERS = ("boss", "user", "guest")
CONFIG = f"""
[roles]
admin = ["*:*"]

[[upstreams]]
name = "near"
transport = "stdio"
command = ["{sys.executable}", "{SCRIPT}", "stdio"]
prefix = "near_"

[[tools]]
match = "near_echo"
permissions = ["red:use"]

[[tools]]
match = "near_fail"
permissions = ["blue:use"]

[[tools]]
match = "near_touch"
access = "public"
"""
OWN = {"red": "near_echo", "blue": "near_fail"}
"""By tenant: the tool that its users may call, by a role that is called the same in both."""
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def prepare(home: Home) -> None:
    """In each tenant an administrator, a user by a role of its own, a guest without one, and a clerk to act upon."""
    home.configure(CONFIG)
    for tenant in TENANTS:
        home.cli("tenants", "add", tenant)
        home.cli("roles", "add", "user", "--tenant", tenant, "--permission", f"{tenant}:use")
        for member in MEMBERS:
            role = {"boss": ["--role", "admin"], "user": ["--role", "user"], "guest": []}[member]
            home.cli("clients", "add", f"{tenant}-{member}", "--tenant", tenant, *role)
        home.cli("clients", "add", f"{tenant}-clerk", "--tenant", tenant)


@pytest.fixture(scope="module")
def gate(prepared: Path) -> Home:
    return Home(prepared)


@pytest.fixture(scope="module")
def keys(gate: Home) -> dict[str, str]:
    """An API key for each client, by its name."""
    names = [f"{tenant}-{member}" for tenant in TENANTS for member in MEMBERS]
    return {name: gate.json("api-keys", "add", name, "--name", "test")["api_key"] for name in names}


class Member(Caller):
    """One of the clients, over a connection of its own."""

    def __init__(self, gate: Home, served: Served, key: str) -> None:
        super().__init__(gate, served)
        self.key = key

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        return super().ask(method, path, body, {**(headers or {}), "X-API-Key": self.key})


@pytest.fixture(scope="module")
def served(gate: Home, keys: dict[str, str]) -> Iterator[Served]:
    running = gate.serve()
    with Member(gate, running, keys["red-boss"]) as boss:
        deadline = time.monotonic() + 60
        while not boss.tools():  # the upstream starts by itself
            assert time.monotonic() < deadline, running.log.read_text()
    yield running
    assert running.stop() == 0
    running.close()
    assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def members(gate: Home, served: Served, keys: dict[str, str]) -> Iterator[dict[str, Member]]:
    made = {name: Member(gate, served, key) for name, key in keys.items()}
    yield made
    for one in made.values():
        one.close()


def _opened(member: Member) -> str:
    """A legacy session of that member's."""
    answer = member.rpc(
        "initialize",
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    )
    return str(answer.headers["mcp-session-id"])


def _listed(member: Member, path: str, *, modern: bool) -> set[str]:
    tools = Modern(member, path).result("tools/list")["tools"] if modern else None
    prefix = "near_" if path.endswith("/near") else ""
    names = member.tools(path) if tools is None else [tool["name"] for tool in tools]
    return {prefix + name for name in names}


def _called(member: Member, path: str, tool: str, *, modern: bool, session: str | None = None) -> Any:
    """The message that answers the call."""
    name = tool.removeprefix("near_") if path.endswith("/near") else tool
    arguments = {"text": "x"} if tool == "near_echo" else {}
    params = {"name": name, "arguments": arguments}
    if modern:
        return messages(Modern(member, path).ask("tools/call", params))[-1]
    answer = member.rpc("tools/call", params, path=path, session=session)
    return messages(answer)[-1]


@pytest.mark.timeout(400)
def test_nothing_crosses_at_the_mcp_endpoint(members: dict[str, Member]) -> None:
    sessions = {name: _opened(member) for name, member in members.items()}
    everything = _listed(members["red-boss"], "/mcp", modern=False)
    assert {*OWN.values(), "near_touch"} < everything

    @QUICK
    @given(
        tenant=st.sampled_from(TENANTS),
        member=st.sampled_from(MEMBERS),
        victim=st.sampled_from(MEMBERS),
        path=st.sampled_from(["/mcp", "/mcp/near"]),
        modern=st.booleans(),
        method=st.sampled_from(["POST", "GET", "DELETE"]),
    )
    def never(tenant: str, member: str, victim: str, path: str, method: str, *, modern: bool) -> None:
        other = next(each for each in TENANTS if each != tenant)
        one = members[f"{tenant}-{member}"]
        allowed = {
            "boss": everything,
            "user": {OWN[tenant], "near_touch"},
            "guest": {"near_touch"},
        }[member]
        assert _listed(one, path, modern=modern) == allowed
        answer = _called(one, path, OWN[other], modern=modern)
        if member == "boss":
            assert "result" in answer, answer  # tools are nobody's: `*:*` covers them in every tenant
        else:
            unknown = _called(one, path, "near_nowhere", modern=modern)["error"]
            shown = {OWN[other], OWN[other].removeprefix("near_")}
            told = {answer["error"]["message"].replace(name, "nowhere") for name in shown}
            assert answer["error"]["code"] == unknown["code"] == -32602
            assert unknown["message"].replace("near_nowhere", "nowhere") in told
        stolen = {
            "Mcp-Session-Id": sessions[f"{other}-{victim}"],
            "Accept": "application/json, text/event-stream",
        }
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}) if method == "POST" else None
        if body is not None:
            stolen["Content-Type"] = "application/json"
        assert one.ask(method, path, body, stolen).status == 404

    never()
    for name, member in members.items():
        assert member.rpc("tools/list", session=sessions[name]).status == 200, (
            "nobody ended another's session"
        )
    for tenant in TENANTS:
        entries = members[f"{tenant}-boss"].ask("GET", "/audit?event=tool_call&limit=1000").json["entries"]
        assert {entry["tenant_id"] for entry in entries} == {tenant}
        assert {str(entry["client_id"]).partition("-")[0] for entry in entries} <= {tenant, "None"}, entries
        denied = {e["tool_name"] for e in entries if e["status"] == "denied"}
        assert OWN[next(each for each in TENANTS if each != tenant)] in denied


def _do(gate: Home, operation: str, **parameters: object) -> Any:
    """What a command does: it asks the running server over its socket."""
    return asyncio.run(ask(gate.folder / "persistence", operation, parameters))


def _of_tenant(gate: Home, tenant: str) -> dict[str, Any]:
    """All that is the tenant's, but for when its keys were used."""
    found = {
        noun: [each for each in _do(gate, operation)[noun] if each["tenant_id"] == tenant]
        for noun, operation in (
            ("clients", "clients.list"),
            ("tenants", "tenants.list"),
            ("roles", "roles.list"),
            ("api_keys", "api_keys.list"),
            ("invitations", "invitations.list"),
            ("tokens", "tokens.list"),
            ("sessions", "sessions.list"),
        )
    }
    for key in found["api_keys"]:
        del key["last_used_at"]
    return found


@pytest.mark.timeout(400)
def test_nothing_crosses_on_the_command_line(gate: Home, served: Served) -> None:
    """A command that is about one tenant changes nothing of the other, and is in the first one's audit alone."""
    permissions = st.sampled_from(["red:use", "blue:use", "audit:read"])

    @QUICK
    @given(
        tenant=st.sampled_from(TENANTS),
        what=st.sampled_from(
            [
                "set_password",
                "roles",
                "others_role",
                "disable",
                "enable",
                "key",
                "role",
                "rename",
                "invite",
                "others_invite",
            ]
        ),
        permission=permissions,
        days=st.integers(1, 30),
    )
    def never(tenant: str, what: str, permission: str, days: int) -> None:
        other = next(each for each in TENANTS if each != tenant)
        client_id = f"{tenant}-clerk"
        operation, parameters, refused = {
            "set_password": (
                "clients.set_password",
                {"client_id": client_id, "password": f"Horse-{days}-Battery-Staple"},
                False,
            ),
            "roles": ("clients.roles", {"client_id": client_id, "permissions": [permission]}, False),
            "others_role": ("clients.roles", {"client_id": client_id, "add_roles": [f"of-{other}"]}, True),
            "disable": ("clients.disable", {"client_id": client_id}, False),
            "enable": ("clients.enable", {"client_id": client_id}, False),
            "key": ("api_keys.add", {"client_id": client_id, "name": "x"}, False),
            "role": (
                "roles.set",
                {"role": f"of-{tenant}", "tenant_id": tenant, "permissions": [permission]},
                False,
            ),
            "rename": ("tenants.set", {"tenant_id": tenant, "name": f"{tenant} {days}"}, False),
            "invite": (
                "invitations.add",
                {"tenant_id": tenant, "days": days, "roles": [f"of-{tenant}"]},
                False,
            ),
            "others_invite": ("invitations.add", {"tenant_id": tenant, "roles": [f"of-{other}"]}, True),
        }[what]
        theirs, newest = _of_tenant(gate, other), _newest(gate, other)
        if refused:
            with pytest.raises(OperationError):
                _do(gate, operation, **parameters)
        else:
            shown = json.dumps(_do(gate, operation, **parameters))
            assert f'"{other}"' not in shown
            assert f'"{other}-' not in shown
        assert _of_tenant(gate, other) == theirs
        assert _newest(gate, other) == newest

    for tenant in TENANTS:
        _do(gate, "roles.add", role=f"of-{tenant}", tenant_id=tenant, permissions=["audit:read"])
    never()


def _newest(gate: Home, tenant: str) -> Any:
    """The newest change in that tenant's audit. (Refusals that were summed up come when they come.)"""
    return _do(gate, "audit.query", tenant_id=tenant, event="admin_change", limit=1)["entries"]


def test_what_roles_grant_holds_at_once_for_a_token_that_is_out(gate: Home, served: Served) -> None:
    _do(gate, "roles.add", role="shift", tenant_id="red", permissions=["audit:read"])
    _do(gate, "clients.add", client_id="shifting", tenant_id="red", roles=["shift"])
    key = _do(gate, "api_keys.add", client_id="shifting", name="test")["api_key"]
    with Member(gate, served, key) as machine:
        token = machine.form("/auth/token", grant_type="client_credentials").json["access_token"]
    with Caller(gate, served, token=token) as holder:

        def may() -> bool:
            listed = OWN["red"] in holder.tools()
            answer = holder.call(OWN["red"], {"text": "x"})
            assert ("result" in answer) == listed
            modern = Modern(holder).result("tools/list")["tools"]
            assert (OWN["red"] in [tool["name"] for tool in modern]) == listed
            return listed

        assert not may()
        for permission, allowed in (("red:use", True), ("blue:use", False), ("red:*", True)):
            _do(gate, "roles.set", role="shift", tenant_id="red", permissions=[permission])
            assert may() == allowed, permission
        for change, allowed in (("remove_roles", False), ("add_roles", True)):
            _do(gate, "clients.roles", client_id="shifting", **{change: ["shift"]})
            assert may() == allowed, change
        _do(gate, "clients.disable", client_id="shifting")
        assert holder.rpc("tools/list").status == 401
