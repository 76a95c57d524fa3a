"""The gateway under test: the real process, with a certificate-bound token, a policy and the audit on."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.identities import CLIENT, Identities
from bench.machine import Failed, Server, Unavailable, python_module
from bench.targets import Target
from bench.upstream import PATH

READY: Final = "ostiary listening on "
AUDIT: Final = "/audit?event=tool_call&tool_name=echo&limit=1"

CONFIGURATION: Final = """\
[server]
port = 0
drain = "1s"

[tls]
certificate = "{identities.server.certificate}"
private_key = "{identities.server.private_key}"
client_ca = "{identities.ca}"
client_certificates = "required"

[tokens]
secret_file = "secret.key"

[storage]
path = "persistence"

[roles]
caller = ["bench:call", "audit:read"]

[[upstreams]]
name = "bench"
url = "http://127.0.0.1:{upstream}{path}"
transport = "http"
prefix = ""

[[tools]]
match = "{tools}"
permissions = ["bench:call"]

[limits]
requests_per_minute = 0
"""


@contextlib.contextmanager
def ostiary(
    folder: Path, core: int, identities: Identities, upstream: int, *, tools: str = "echo", more: str = ""
) -> Iterator[Target]:
    """Ostiary with client certificates required and one client that may call the tools that match a pattern.

    ``more`` is put at the end of its configuration.

    Raises:
        Unavailable: It does not start; the text has its own last words.
        Failed: Its token is not bound to the certificate.
    """
    own = folder / "ostiary"
    own.mkdir(mode=0o700)
    (own / "persistence").mkdir(mode=0o700)
    configuration = own / "ostiary.toml"
    text = CONFIGURATION.format(identities=identities, upstream=upstream, path=PATH, tools=tools)
    configuration.write_text(text + more)
    secret = own / "secret.key"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_urlsafe(48))
    _run("clients", "add", CLIENT, "--role", "caller", "--config", str(configuration))

    command = python_module("gateway", "serve", "--config", str(configuration))
    with Server("ostiary", command, core=core, log=own / "log") as server:
        origin = server.line(READY)
        target = Target("ostiary", server, origin, "", identities)
        yield replace(target, token=_token(target))


def check_audit(target: Target) -> None:
    """See that the newest call is in the audit.

    Raises:
        Failed: It is not: what was measured is not what was claimed.
    """
    answer = target.ask("GET", AUDIT, {"Authorization": f"Bearer {target.token}"}, "")
    entries = json.loads(answer)["entries"]
    if not entries or entries[0]["client_id"] != CLIENT or entries[0]["status"] != "ok":
        raise Failed(f"{target.name}: the calls are not in the audit: {answer[:300]}")


def _token(target: Target) -> str:
    """An access token by the certificate alone, bound to it (RFC 8705 section 3)."""
    token: str = json.loads(target.ask("GET", "/auth/token", {}, ""))["access_token"]
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    if "x5t#S256" not in claims.get("cnf", {}):
        raise Failed(f"{target.name}: the token is not bound to the certificate")
    return token


def _run(*arguments: str) -> None:
    done = subprocess.run(python_module("gateway", *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"ostiary {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
