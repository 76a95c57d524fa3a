"""Kills the real gateway under load, again and again, and checks from the clients' side that nothing is lost.

    python tests/faults/crash.py [--rounds N] [--minutes N] [--seed N] [--folder DIR]

In each round clients issue and revoke tokens and call tools over mutual TLS, and one puts and removes records of a
collection over the control socket, until the gateway is killed: at a random instant, or at the n-th write, fdatasync, fsync, rename, unlink or open of its store, before or after it. The next gateway on
the same folder must know every token that a client was given, refuse every token whose revocation was answered, have each
record as it was last answered, and each answered request in its audit. Now and then, and in the end, the audit's chain and signatures are verified, and in the
end the store's files are looked through.

What was asked but not answered when the gateway was killed may have been done or not: nothing is claimed about it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from keeper import Keeper

from gateway.operations.control import NoServer

ROOT = Path(__file__).resolve().parent.parent.parent
CALLS = ("open", "write", "fdatasync", "fsync", "rename", "unlink")
CLIENTS = ("ada", "bob", "eve", "kim")
LONGEST = 2.5
"""Seconds after which a round ends although the chosen instant has not come."""
CHECKED_TOKENS = 150
"""At most so many tokens of the last round are used again, and a fifth of that of earlier ones."""
VERIFIED_EVERY = 25
"""Rounds from one verification of the audit to the next."""
SETTINGS = """
[roles]
caller = ["genealogy:read"]
auditor = ["audit:read"]

[[upstreams]]
name = "genealogy"
transport = "http"
url = "{url}"
prefix = "gen_"

[[tools]]
match = "gen_*"
permissions = ["genealogy:read"]
"""


class Lost(AssertionError):  # noqa: N818 - what it says
    """Something that was acknowledged is not there."""


@dataclass
class Token:
    """One that a client was given."""

    client: str
    text: str
    revoked: bool | None = False
    """None: its revocation was asked for, but not answered."""


@dataclass
class Round:
    """What was answered until the gateway was killed."""

    tokens: list[Token] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    """By request id: the event that the audit must have."""
    refusals: list[Lost] = field(default_factory=list)


class Client:
    """One kept-alive TLS connection with a certificate."""

    def __init__(self, folder: Path, port: int, name: str) -> None:
        self.name = name
        context = ssl.create_default_context(cafile=str(folder / "certs" / "ca.pem"))
        own = folder / "clients" / name
        context.load_cert_chain(own / f"{name}.pem", own / f"{name}.key")
        self._connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)

    def ask(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, bytes]:
        """Status, request id and body of the answer, which is whole. Raises OSError or HTTPException."""
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        return response.status, response.headers.get("X-Request-ID", ""), response.read()

    def rpc(self, method: str, params: dict[str, Any], token: str) -> tuple[int, str, bytes]:
        """POST one JSON-RPC request."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        return self.ask(
            "POST",
            "/mcp",
            body,
            {
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "Authorization": f"Bearer {token}",
            },
        )

    def revoke(self, token: str) -> tuple[int, str, bytes]:
        """End a token with itself."""
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": f"Bearer {token}",
        }
        return self.ask("POST", "/auth/revoke", urlencode({"token": token}), headers)

    def close(self) -> None:
        self._connection.close()


class Harness:
    """One gateway folder, and what its clients know."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.older: list[Token] = []
        self.last = Round()
        self.keeper = Keeper(folder / "persistence")
        self.since = _timestamp()
        self.slowest_start = 0.0

    def prepare(self, upstream: str) -> None:
        """A gateway's folder, with clients and their certificates."""
        self._cli(
            "init", str(self.folder), "--admin", "root", "--password-stdin", stdin="Correct-Horse-7-Battery\n"
        )
        config = self.folder / "ostiary.toml"
        config.write_text(config.read_text() + SETTINGS.format(url=upstream))
        for name in CLIENTS:
            self._add(name, "caller")
        self._add("olga", "auditor")

    def _add(self, name: str, role: str) -> None:
        config = str(self.folder / "ostiary.toml")
        self._cli("clients", "add", name, "--role", role, "--config", config)
        self._cli("certs", "issue", name, "--out", str(self.folder / "clients" / name), "--config", config)

    def run(self, rounds: int, minutes: float) -> None:
        """Whichever ends first. Raises Lost."""
        started = time.monotonic()
        for number in range(1, rounds + 1):
            if time.monotonic() - started > 60 * minutes:
                break
            self._round(self._instant())
            if number % VERIFIED_EVERY == 0:
                self._ostiary("audit", "verify")
            if number % 20 == 0:
                print(
                    f"{number} rounds, {time.monotonic() - started:.0f} s: {dict(self.answers)}", flush=True
                )
        process, port = self._serve(None)
        self._check(port)
        process.terminate()
        if process.wait(60) != 0:
            raise Lost("the gateway did not stop cleanly")
        self._ostiary("store", "check")
        self._ostiary("audit", "verify")

    def _instant(self) -> tuple[str, int, str] | None:
        """Where the process kills itself; None: it is killed at a random instant."""
        if self.random.random() < 0.4:
            return None
        call = self.random.choice(CALLS)
        most = 200 if call in {"write", "fdatasync"} else 40
        return call, self.random.randint(1, most), self.random.choice(("before", "after"))

    def _round(self, instant: tuple[str, int, str] | None) -> None:
        process, port = self._serve(instant)
        if port:
            with contextlib.suppress(OSError, NoServer, http.client.HTTPException):
                self._check(port)
                self._load(process, port, self.random.uniform(0.05, 1.0) if instant is None else LONGEST)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if process.returncode != -signal.SIGKILL:
            raise Lost(f"the gateway ended with {process.returncode}: {self._log().read_text()[-2000:]}")
        self.kills["random" if instant is None else f"{instant[2]} {instant[0]}"] += 1

    def _serve(self, instant: tuple[str, int, str] | None) -> tuple[subprocess.Popen[str], int]:
        """The process, and its port; 0: it killed itself before it was ready."""
        words = [str(word) for word in instant or ("never", 0, "after")]
        started = time.monotonic()
        with self._log().open("w") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "tests/faults/killed_gateway.py",
                    *words,
                    "serve",
                    "--config",
                    str(self.folder / "ostiary.toml"),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    "OSTIARY_SERVER_PORT": "0",
                    "OSTIARY_TOKENS_ACCESS_TTL": "30d",
                    "PYTHONPATH": str(ROOT),
                },
            )
        line = process.stdout.readline() if process.stdout is not None else ""
        self.slowest_start = max(self.slowest_start, time.monotonic() - started)
        if line.startswith("ostiary listening on "):
            return process, int(line.rpartition(":")[2])
        if instant is None or process.wait(60) != -signal.SIGKILL:
            raise Lost(f"the gateway did not start: {self._log().read_text()[-2000:]}")
        return process, 0

    def _log(self) -> Path:
        return self.folder / "serve.log"

    # ---- load --------------------------------------------------------------------------------------------------

    def _load(self, process: subprocess.Popen[str], port: int, seconds: float) -> None:
        """Until the process is killed."""
        self.since = _timestamp()
        rounds = [Round() for _ in CLIENTS]
        workers = [
            threading.Thread(target=self._work, args=(port, name, own))
            for name, own in zip(CLIENTS, rounds, strict=True)
        ]
        workers.append(threading.Thread(target=self.keeper.work))
        for worker in workers:
            worker.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        for worker in workers:
            worker.join()
        for own in rounds:
            for refusal in own.refusals:
                raise refusal
        self.last = Round(
            [token for own in rounds for token in own.tokens],
            {request: event for own in rounds for request, event in own.answered.items()},
        )
        self.answers.update(self.last.answered.values())

    def _work(self, port: int, name: str, own: Round) -> None:
        client = Client(self.folder, port, name)
        try:
            while True:
                self._one(client, own, revoke=bool(len(own.tokens) % 2))
        except Lost as lost:
            own.refusals.append(lost)
        except (OSError, http.client.HTTPException):  # it was killed
            client.close()

    def _one(self, client: Client, own: Round, *, revoke: bool) -> None:
        """A token, a call with it, and its end."""
        status, request, body = client.ask("GET", "/auth/token")
        _expect(status, 200, body)
        token = Token(client.name, json.loads(body)["access_token"])
        own.tokens.append(token)
        own.answered[request] = "token_issued"
        call = {"name": "gen_list_persons", "arguments": {}}
        status, request, body = client.rpc("tools/call", call, token.text)
        _expect(status, 200, body)
        own.answered[request] = "tool_call"
        if not revoke:
            return
        token.revoked = None
        status, request, body = client.revoke(token.text)
        _expect(status, 200, body)
        token.revoked = True
        own.answered[request] = "token_revoked"

    # ---- checks ------------------------------------------------------------------------------------------------

    def _check(self, port: int) -> None:
        """What the last round's clients were told is so."""
        last, sample = self.last, self.random.sample
        tokens = sample(last.tokens, min(CHECKED_TOKENS, len(last.tokens)))
        tokens += sample(self.older, min(CHECKED_TOKENS // 5, len(self.older)))
        clients = {name: Client(self.folder, port, name) for name in CLIENTS}
        for token in tokens:
            if token.revoked is None:
                continue
            status, _, body = clients[token.client].rpc("tools/list", {}, token.text)
            if status != (401 if token.revoked else 200):
                raise Lost(f"a token, revoked: {token.revoked}, was answered {status}: {body[:200]!r}")
        for client in clients.values():
            client.close()
        for wrong in self.keeper.wrong():
            raise Lost(wrong)
        self._check_audit(port)
        self.older += last.tokens
        self.last = Round()

    def _check_audit(self, port: int) -> None:
        missing = dict(self.last.answered)
        auditor = Client(self.folder, port, "olga")
        cursor = ""
        while missing and cursor is not None:
            query = f"/audit?limit=1000&since={quote(self.since)}" + (
                f"&cursor={quote(cursor)}" if cursor else ""
            )
            status, _, body = auditor.ask("GET", query)
            _expect(status, 200, body)
            page = json.loads(body)
            for entry in page["entries"]:
                event = missing.get(entry["request_id"])
                interrupted = (entry["status"], entry["reason"]) == ("error", "interrupted")
                if event == entry["event"] and (entry["status"] == "ok" or interrupted):
                    del missing[entry["request_id"]]
            cursor = page["next_cursor"]
        auditor.close()
        if missing:
            raise Lost(
                f"{len(missing)} answered requests are not in the audit, such as {next(iter(missing.items()))}"
            )

    def _ostiary(self, *words: str) -> None:
        """A command on the gateway's store, as a crash left it or beside a server. Raises Lost where it fails."""
        self._cli(*words, "--config", str(self.folder / "ostiary.toml"))

    def _cli(self, *words: str, stdin: str | None = None) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *words],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        if done.returncode != 0:
            raise Lost(f"ostiary {' '.join(words)}: {done.stdout}{done.stderr}")


def _expect(status: int, wanted: int, body: bytes) -> None:
    if status != wanted:
        raise Lost(f"{status} instead of {wanted}: {body[:200]!r}")


def _timestamp() -> str:
    """A little earlier than now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))


@contextlib.contextmanager
def _upstream() -> Any:
    process = subprocess.Popen(
        [sys.executable, "examples/genealogy/mcp_server.py", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().split()[-1] if process.stdout is not None else ""
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no round begins after so many")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--folder", type=Path, help="where the store is made; a temporary folder by default")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, _upstream() as url:
        harness = Harness(Path(folder) / "gateway", arguments.seed)
        harness.prepare(url)
        started = time.monotonic()
        harness.run(arguments.rounds, arguments.minutes)
        answers = harness.answers
        print(
            f"{harness.kills.total()} kills in {time.monotonic() - started:.0f} s, nothing lost: "
            f"{answers['token_issued']} tokens, {answers['token_revoked']} revocations and {answers['tool_call']} calls, "
            f"{harness.keeper.answered} writes of records were answered; slowest start {harness.slowest_start:.1f} s"
        )
        print("killed:", ", ".join(f"{count} {instant}" for instant, count in harness.kills.most_common()))


if __name__ == "__main__":
    main()
