"""A gateway in a temporary folder, with the conformance upstream behind it, and who may use it."""

from __future__ import annotations

import base64
import json
import os
import select
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.commands import ostiary
from tests.conformance.suite import Identity

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = """
[roles]
user = ["everything:use"]

[[upstreams]]
name = "everything"
transport = "http"
url = "{url}"
prefix = ""

[[tools]]
match = "*"
permissions = ["everything:use"]

[[prompts]]
match = "*"
permissions = ["everything:use"]

[[resources]]
match = "*"
permissions = ["everything:use"]
"""


@contextmanager
def listening(*command: str, starts_with: str, **environment: str) -> Iterator[str]:
    """Run a server; what it prints after ``starts_with`` once it listens. Raises RuntimeError."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 30)
        line = process.stdout.readline().strip() if ready else ""
        if not line.startswith(starts_with):
            raise RuntimeError(f"{command[0]} did not start: {line!r}")
        yield line.removeprefix(starts_with)
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def upstream(*, era: str = "both") -> Iterator[str]:
    """Run the conformance upstream; its URL."""
    script = str(Path(__file__).resolve().parent / "server.py")
    with listening(script, "--era", era, starts_with="listening on ") as url:
        yield url


def prepare(folder: Path, upstream_url: str) -> None:
    """Make the gateway's folder: its certificates, its policy, and one client that may use everything."""
    _ostiary("init", str(folder), "--admin", "root", "--password-stdin", stdin="Correct-Horse-7-Battery\n")
    config = folder / "ostiary.toml"
    config.write_text(config.read_text() + CONFIG.format(url=upstream_url))
    at = ("--config", str(config))
    _ostiary("certs", "issue-server", *_HOSTS, *at)
    _ostiary("clients", "add", "suite", "--role", "user", *at)
    _ostiary("certs", "issue", "suite", "--out", str(folder / "suite"), *at)


_HOSTS = ("--name", "localhost", "--name", "127.0.0.1", "--name", "evil.example.com")
"""The suite connects to this machine under a foreign name, too: TLS shall succeed, so that the gateway can refuse."""


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """Serve the folder; the gateway's URL."""
    command = ("-m", "gateway", "serve", "--config", str(folder / "ostiary.toml"))
    with listening(*command, starts_with="ostiary listening on ", OSTIARY_SERVER_PORT="0") as url:
        yield f"https://localhost:{url.rpartition(':')[2]}"


def identity(folder: Path) -> Identity:
    """The client's certificate."""
    client = folder / "suite"
    return Identity(folder / "certs" / "ca.pem", client / "suite.pem", client / "suite.key")


def with_token(url: str, certificate: Identity) -> Identity:
    """The certificate, and a token issued for it."""
    context = ssl.create_default_context(cafile=str(certificate.ca))
    context.load_cert_chain(certificate.certificate, certificate.key)
    with urllib.request.urlopen(f"{url}/auth/token", context=context) as answer:
        token = str(json.load(answer)["access_token"])
    claims = token.split(".")[1]
    assert "cnf" in json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    return Identity(certificate.ca, certificate.certificate, certificate.key, token)


def _ostiary(*words: str, stdin: str | None = None) -> None:
    done = ostiary(*words, stdin=stdin)
    if done.returncode != 0:
        raise RuntimeError(f"ostiary {' '.join(words)}: {done.stdout}{done.stderr}")
