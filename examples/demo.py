"""The main job of Ostiary, shown with the real thing: ``make demo`` and ``make run``.

In a temporary folder it makes a CA, starts the example servers and the gateway, and drives the gateway with curl
(with and without client certificates) and with the official MCP SDK. Every command is printed with its answer; the
exit code is 0 only if each answer was as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

ROOT = Path(__file__).resolve().parent.parent
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
WIDTH = 400
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

CONFIG = """
[roles]
analyst = ["genealogy:read", "notes:read"]
auditor = ["audit:read"]

[[upstreams]]
name = "genealogy"
transport = "http"
url = "{genealogy}"
prefix = "genealogy_"

[[upstreams]]
name = "notes"
transport = "stdio"
command = ["{python}", "{examples}/notes/server.py", "--folder", "notes"]
prefix = "notes_"

[[tools]]
match = "genealogy_list_persons"
access = "public"

[[tools]]
match = "genealogy_add_*"
permissions = ["genealogy:write"]

[[tools]]
match = "genealogy_*"
permissions = ["genealogy:read"]

[[tools]]
match = "notes_write_note"
permissions = ["notes:write"]

[[tools]]
match = "notes_*"
permissions = ["notes:read"]

[[resources]]
match = "genealogy://*"
permissions = ["genealogy:read"]

[[services]]
name = "persons"
prefix = "/api/v1/"
url = "{service}"
permissions = {{ read = ["genealogy:read"], write = ["genealogy:write"] }}
"""


class Failed(Exception):  # noqa: N818 - the demo's own verdict
    """An answer was not as it should be."""


def _paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def _say(text: str) -> None:
    print(_paint("1", f"\n{text}"))


def _shorten(text: str) -> str:
    text = text.strip()
    return text if len(text) <= WIDTH else f"{text[:WIDTH]} … ({len(text)} characters)"


def _expect(*, that: bool, what: str) -> None:
    print(_paint("32", f"  ✓ {what}") if that else _paint("31", f"  ✗ {what}"))
    if not that:
        raise Failed(what)


class Demo:
    """A gateway in a temporary folder, and what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""

    def ostiary(self, *words: str, stdin: str | None = None) -> str:
        """Run an ``ostiary`` command and show it."""
        print(_paint("36", f"$ ostiary {shlex.join(words)}"))
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *words],
            input=stdin, capture_output=True, text=True, cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        print(_shorten(done.stdout + done.stderr))
        if done.returncode:
            raise Failed(f"ostiary {words[0]} ended {done.returncode}")
        return done.stdout

    def curl(self, path: str, *options: str, client: str | None = None) -> tuple[int, Any]:
        """Run curl and show it; the status and the answer's JSON."""
        identity = ["--cert", f"clients/{client}.pem", "--key", f"clients/{client}.key"] if client else []
        words = ["curl", "-s", "--cacert", "certs/ca.pem", *identity, *options, f"{self.url}{path}"]
        shown = [word if len(word) < 100 else f"{word[:60]}…" for word in words]
        print(_paint("36", f"$ {shlex.join(shown)}"))
        done = subprocess.run(
            [*words, "-w", "\n%{http_code}"], capture_output=True, text=True, cwd=self.folder, check=False
        )
        if done.returncode:
            raise Failed(f"curl ended {done.returncode}: {done.stderr}")
        body, _, status = done.stdout.rpartition("\n")
        print(f"{status} {_shorten(body)}")
        return int(status), json.loads(body) if body.strip() else None

    def rpc(
        self, method: str, params: dict[str, Any], *options: str, client: str | None = None
    ) -> tuple[int, Any]:
        """A JSON-RPC request by curl."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        return self.curl(
            "/mcp", "-H", "Content-Type: application/json", "-H", "Accept: application/json",
            "-d", body, *options, client=client,
        )  # fmt: skip


@contextmanager
def _started(folder: Path, name: str, *command: str) -> Iterator[str]:
    """A server process, from its announcement to its end; the address that it announced.

    It is in a process group of its own: whatever a terminal sends reaches this process alone, which ends the servers.
    """
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=folder, process_group=0,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        line = process.stdout.readline() if process.stdout else ""
        if "listening on " not in line:
            raise Failed(f"{name} did not start")
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _show(demo: Demo) -> None:
    names = ["genealogy_list_persons"]
    _say("Without credentials: only what is public")
    _, answer = demo.rpc("tools/list", {})
    _expect(
        that=[tool["name"] for tool in answer["result"]["tools"]] == names, what="one public tool is listed"
    )
    _, answer = demo.rpc("tools/call", {"name": "genealogy_find_person", "arguments": {"name": "Ada"}})
    _expect(
        that=answer["error"]["code"] == -32602, what="a hidden tool is as unknown as one that does not exist"
    )

    _say("A token by certificate: no password, no secret on the wire")
    _, answer = demo.curl("/auth/token", client="alice")
    token = answer["access_token"]
    bearer = ("-H", f"Authorization: Bearer {token}")
    _expect(that=answer["token_type"] == "Bearer", what="alice has a token, bound to her certificate")

    _say("Certificate and token together: her own list")
    _, answer = demo.rpc("tools/list", {}, *bearer, client="alice")
    listed = [tool["name"] for tool in answer["result"]["tools"]]
    _expect(that="notes_list_notes" in listed, what=f"{len(listed)} tools, of two servers")
    changing = {"genealogy_add_person", "notes_write_note"}
    _expect(that=not changing & set(listed), what="what would let her change something is not listed")
    status, _ = demo.rpc("tools/list", {}, *bearer)
    _expect(that=status == 401, what="the token without the certificate is worth nothing")
    status, _ = demo.rpc("tools/list", {}, *bearer, client="bob")
    _expect(that=status == 401, what="and with another's certificate, too")

    _say("The HTTP service behind the same door")
    status, answer = demo.curl("/api/v1/persons", *bearer, client="alice")
    _expect(that=status == 200, what="alice reads the persons")
    status, _ = demo.curl("/api/v1/persons")
    _expect(that=status == 401, what="nobody else does")

    _say("The official MCP SDK, with her certificate and token")
    listed_by_sdk = asyncio.run(_with_sdk(demo, token))
    _expect(that=listed_by_sdk == listed, what="the same list, and her call went through")

    _say("Refresh, by a person with a password")
    _, pair = demo.curl("/auth/token", "-d", "username=alice", "-d", "password=Demo-Passw0rd!")
    _, answer = demo.curl("/auth/refresh", "-d", f"refresh_token={pair['refresh_token']}")
    _expect(that=answer["access_token"] != pair["access_token"], what="a new access token")

    _say("Revocation, felt at once")
    tokens = json.loads(demo.ostiary("tokens", "list", "--json"))["tokens"]
    _expect(that=len(tokens) >= 3, what="tokens are listed without the tokens themselves")
    token_id = _token_id(token)
    demo.ostiary("tokens", "revoke", token_id)
    status, answer = demo.rpc("tools/list", {}, *bearer, client="alice")
    _expect(that=(status, answer["reason"]) == (401, "token_revoked"), what="the next use is refused")

    _say("The audit knows")
    _, answer = demo.curl("/audit?limit=50", client="root")
    events = {entry["event"] for entry in answer["entries"]}
    _expect(
        that={"tool_call", "token_issued", "token_revoked", "auth_failed"} <= events,
        what="calls, tokens and refusals are there",
    )
    demo.ostiary("audit", "query", "--status", "failed")


async def _with_sdk(demo: Demo, token: str) -> list[str]:
    import ssl

    context = ssl.create_default_context(cafile=str(demo.folder / "certs" / "ca.pem"))
    context.load_cert_chain(demo.folder / "clients" / "alice.pem", demo.folder / "clients" / "alice.key")
    async with (
        httpx2.AsyncClient(verify=context, headers={"Authorization": f"Bearer {token}"}) as http,
        Client(streamable_http_client(f"{demo.url}/mcp", http_client=http)) as client,
    ):
        tools = [tool.name for tool in (await client.list_tools()).tools]
        result = await client.call_tool("genealogy_list_persons")
        print(f"tools: {', '.join(tools)}")
        print(f"genealogy_list_persons: {_shorten(str(result.content))}")
    return tools


def _token_id(token: str) -> str:
    import base64

    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(claims["jti"])


def _prepare(demo: Demo, genealogy: str, service: str) -> None:
    _say("A new gateway: configuration, CA, server certificate, secret, store, first admin")
    demo.ostiary("init", ".", "--admin", "root", "--password-stdin", stdin="Demo-Adm1n-Passw0rd!\n")
    config = demo.folder / "ostiary.toml"
    examples = ROOT / "examples"
    added = CONFIG.format(genealogy=genealogy, service=service, python=sys.executable, examples=examples)
    config.write_text(config.read_text() + added)
    _say("Its clients: alice may read, bob may nothing")
    demo.ostiary("clients", "add", "alice", "--role", "analyst", "--password-stdin", stdin="Demo-Passw0rd!\n")
    demo.ostiary("clients", "add", "bob")
    for name in ("alice", "bob", "root"):
        demo.ostiary("certs", "issue", name, "--out", "clients")
    demo.ostiary("check")


def _keep_running(demo: Demo) -> None:
    _say("Running. Try, in another terminal:")
    alice, root = (
        f"curl -w '\\n' --cacert certs/ca.pem --cert clients/{name}.pem --key clients/{name}.key {demo.url}"
        for name in ("alice", "root")
    )
    print(
        f"""  cd {demo.folder}
  {alice}/auth/token
  {alice}/api/v1/persons
  {alice}/mcp \\
    -H 'Content-Type: application/json' -d '{{"jsonrpc":"2.0","id":1,"method":"tools/list"}}'
  {root}/audit
Ctrl-C ends it and removes the folder.""",
        flush=True,
    )
    signal.pause()


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """End in order, once: what is sent after that must not disturb the clearing away."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(folder: Path, *, keep: bool) -> None:
    """The servers, the gateway, and the show or the wait for its end."""
    demo = Demo(folder)
    examples = ROOT / "examples"
    archive = ("genealogy/mcp_server.py", f"{examples}/genealogy/mcp_server.py", "--port", "0")
    persons = ("genealogy/service.py", f"{examples}/genealogy/service.py", "--port", "0")
    (folder / "notes").mkdir()
    with _started(folder, *archive) as genealogy, _started(folder, *persons) as service:
        _prepare(demo, genealogy, service.partition("/api")[0])
        os.environ["OSTIARY_SERVER_PORT"] = "8443" if keep else "0"
        with _started(folder, "ostiary serve", "-m", "gateway", "serve") as address:
            demo.url = f"https://localhost:{address.rpartition(':')[2]}"
            _keep_running(demo) if keep else _show(demo)


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep-running", action="store_true", help="leave it running until Ctrl-C")
    keep = parser.parse_args().keep_running
    if shutil.which("curl") is None:
        print("the demo needs curl: apt-get install curl", file=sys.stderr)
        return 1
    for number in ENDING:
        signal.signal(number, _end)
    try:
        with tempfile.TemporaryDirectory(prefix="ostiary-demo-") as folder:
            _run(Path(folder), keep=keep)
    except Failed as failed:
        print(_paint("31", f"\nThe demo failed: {failed}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nEnded; nothing is left behind.")
        return 0 if keep else 1
    print(_paint("32", "\nEvery answer was as it should be."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
