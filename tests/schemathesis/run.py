"""``make openapi``: schemathesis, all checks, over ``/openapi.json`` of a real gateway. Ends 0 if nothing was found.

Twice: with an administrator's certificate; then with a token and no certificate, where it can also see that what needs a
credential is refused without one (a certificate comes with the connection, so leaving away a header changes nothing).
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SCHEMATHESIS = ROOT / ".venv" / "schemathesis" / "bin" / "schemathesis"
PASSWORD = "Correct-Horse-7-Battery"
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


def _token(url: str, ca: Path) -> str:
    body = json.dumps({"username": "root", "password": PASSWORD}).encode()
    request = urllib.request.Request(
        f"{url}/auth/token", body, {"Content-Type": "application/json", "Host": "localhost"}
    )
    context = ssl.create_default_context(cafile=str(ca))
    with urllib.request.urlopen(request, context=context) as answer:
        return str(json.load(answer)["access_token"])


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
            runs = (
                ["--request-cert", str(certificate), "--request-cert-key", str(certificate.with_suffix(".key")),
                 "--exclude-checks", "ignored_auth"],
                ["--header", f"Authorization: Bearer {_token(url, ca)}", "--exclude-path", "/auth/logout"],
            )  # fmt: skip
            for ways in runs:
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
                done = subprocess.run(
                    [SCHEMATHESIS, "--config-file", HERE / "schemathesis.toml", *words],
                    check=False,
                    cwd=temporary,
                )
                failed = failed or done.returncode != 0
        if "Traceback" in (folder / "log").read_text():
            sys.stderr.write((folder / "log").read_text())
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
