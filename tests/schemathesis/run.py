"""``make openapi``: schemathesis, all checks, over ``/openapi.json`` of a real gateway. Ends 0 if nothing was found.

Twice: with an administrator's token and no certificate, where it can also see that what needs a
credential is refused without one (a certificate comes with the connection, so leaving away a header changes nothing); then with a certificate. The
token is of an administrator who has a second factor, and must still be good when the run is over: else it saw refusals alone.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.identity.totp import STEP, code_at

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SCHEMATHESIS = ROOT / ".venv" / "schemathesis" / "bin" / "schemathesis"
PASSWORD = "Correct-Horse-7-Battery"
ENDS_ITSELF = (
    "POST /auth/logout",
    "POST /auth/revoke",
    "DELETE /auth/sessions/{session_id}",
    "DELETE /admin/api/sessions/{session_id}",
    "DELETE /admin/api/tokens/{token_id}",
)
"""With what it finds in lists schemathesis would end its own token; a certificate it cannot end so."""
ENDS_ITS_CLIENT = ("PATCH /admin/api/clients/{client_id}", "DELETE /admin/api/clients/{client_id}")
"""These it would do however it is signed in."""
CONFIG = f"""
[[upstreams]]
name = "near"
transport = "stdio"
command = ["{sys.executable}", "{ROOT}/tests/servers/everything.py", "stdio"]
prefix = "near_"

[[tools]]
match = "*"
access = "public"

[limits]
login_per_minute = 1000000
"""


def _ostiary(*words: str, stdin: str | None = None) -> None:
    command = [sys.executable, "-m", "gateway", *words]
    subprocess.run(command, input=stdin, text=True, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@contextmanager
def _gateway(folder: Path) -> Iterator[str]:
    """Serves a new gateway; its URL."""
    _ostiary("init", str(folder), "--admin", "root", "--password-stdin", stdin=f"{PASSWORD}\n")
    config = folder / "ostiary.toml"
    config.write_text(config.read_text() + CONFIG)
    _ostiary("certs", "issue", "root", "--out", str(folder / "root"), "--config", str(config))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OSTIARY_SERVER_PORT": "0"},
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ostiary listening on "):
            raise SystemExit(f"the gateway did not start: {(folder / 'log').read_text()}")
        yield f"https://localhost:{line.strip().rpartition(':')[2]}"
    finally:
        process.terminate()
        process.wait(timeout=30)


class Connection:
    """To the gateway, with a certificate or without."""

    token = ""

    def __init__(self, url: str, folder: Path, certificate: Path | None = None) -> None:
        self._url = url
        self._context = ssl.create_default_context(cafile=str(folder / "certs" / "ca.pem"))
        if certificate is not None:
            self._context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    def is_signed_in(self) -> bool:
        """Whether its caller is still let in."""
        try:
            return bool(self._ask("GET", "/auth/me")["client_id"])
        except urllib.error.HTTPError:
            return False

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Host": "localhost"}
        if self.token and not path.startswith("/auth/login"):
            headers["Authorization"] = f"Bearer {self.token}"
        content = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(f"{self._url}{path}", content, headers, method=method)
        with urllib.request.urlopen(request, context=self._context) as answer:
            return json.load(answer)


class Account(Connection):
    """An administrator, signed in by password and second factor."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder)
        words = ("--permission", "*:*", "--permission", "platform:*", "--password-stdin")
        config = ("--config", str(folder / "ostiary.toml"))
        _ostiary("clients", "add", "clerk", "--certificate", "none", *words, *config, stdin=f"{PASSWORD}\n")
        password = {"username": "clerk", "password": PASSWORD}
        self.token = self._ask("POST", "/auth/login", password)["access_token"]
        secret = base64.b32decode(self._ask("POST", "/auth/mfa/enrol")["secret"])
        step = int(time.time()) // STEP
        self._ask("POST", "/auth/mfa/confirm", {"code": code_at(secret, step - 1)})
        half = self._ask("POST", "/auth/login", password)["mfa_session_token"]
        code = {"mfa_session_token": half, "code": code_at(secret, step)}
        self.token = self._ask("POST", "/auth/login/mfa", code)["access_token"]


def main() -> int:
    """Both runs; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=50, help="examples for each operation")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="ostiary-openapi-") as temporary:
        folder = Path(temporary) / "gate"
        with _gateway(folder) as url:
            ca = folder / "certs" / "ca.pem"
            certificate = folder / "root" / "root.pem"
            account, root = Account(url, folder), Connection(url, folder, certificate)
            runs = (
                ["--header", f"Authorization: Bearer {account.token}",
                 *(word for name in ENDS_ITSELF for word in ("--exclude-name", name))],
                ["--request-cert", str(certificate), "--request-cert-key", str(certificate.with_suffix(".key")),
                 "--exclude-checks", "ignored_auth"],
            )  # fmt: skip
            for number, ways in enumerate(runs):
                words = [
                    "run",
                    f"{url}/openapi.json",
                    "--url",
                    url,
                    "--tls-verify",
                    str(ca),
                    "--checks",
                    "all",
                ]
                words += ["--max-examples", str(options.examples), "--continue-on-failure", *ways]
                words += [word for name in ENDS_ITS_CLIENT for word in ("--exclude-name", name)]
                done = subprocess.run(
                    [SCHEMATHESIS, "--config-file", HERE / "schemathesis.toml", *words],
                    check=False,
                    cwd=temporary,
                )
                failed = failed or done.returncode != 0
                if not (account if number == 0 else root).is_signed_in():
                    sys.stderr.write("the run shut itself out: what came after that was refused\n")
                    failed = True
        if "Traceback" in (folder / "log").read_text():
            sys.stderr.write((folder / "log").read_text())
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
