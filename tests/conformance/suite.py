"""The official MCP conformance suite: installed from npm, run against a URL, its verdict read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / ".venv" / "conformance"
REVISIONS = {"2025-11-25": 30, "2026-07-28": 37}
"""How many scenarios each requires of a server."""
_SCENARIO = re.compile(r"^[✓✗] ([\w.-]+): (\d+) passed, (\d+) failed$", re.MULTILINE)


class SuiteError(Exception):
    """The suite cannot be installed or run; the message says what to do."""


@dataclass(frozen=True)
class Identity:
    """What the suite's requests carry."""

    ca: Path
    certificate: Path
    key: Path
    token: str | None = None

    def environment(self) -> dict[str, str]:
        files = {"OSTIARY_CA": self.ca, "OSTIARY_CERT": self.certificate, "OSTIARY_KEY": self.key}
        token = {"OSTIARY_TOKEN": self.token} if self.token is not None else {}
        return {name: str(path) for name, path in files.items()} | token


@dataclass(frozen=True)
class Verdict:
    """How many checks of one scenario passed and failed."""

    passed: int
    failed: int

    @property
    def good(self) -> bool:
        return self.passed > 0 and self.failed == 0

    def __str__(self) -> str:
        return (
            f"{self.passed} passed" if self.good else f"{self.failed} of {self.passed + self.failed} FAILED"
        )


def available() -> bool:
    """Whether it is installed, or can be."""
    return (HOME / ".installed").exists() or shutil.which("npm") is not None


def install() -> None:
    """Install what package-lock.json names, unless it is there already. Raises SuiteError."""
    lock = (HERE / "package-lock.json").read_bytes()
    mark = HOME / ".installed"
    if mark.exists() and mark.read_bytes() == lock:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise SuiteError("The suite needs npm: apt-get install npm")
    HOME.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, HOME / name)
    done = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SuiteError(f"npm could not install the suite:\n{done.stderr}")
    mark.write_bytes(lock)


def required(revision: str) -> list[str]:
    """The scenarios that the revision requires of a server, in the suite's order."""
    folder = HOME / "node_modules" / "@modelcontextprotocol" / "conformance" / "requirements"
    text = (folder / f"{revision}.yaml").read_text()
    block = text.partition("\nserver:\n")[2].partition("\n\n")[0]
    return [line.strip().removeprefix("- ") for line in block.splitlines()]


def run(url: str, revision: str, identity: Identity | None = None) -> dict[str, Verdict]:
    """Run all that the revision names; what became of each scenario. Raises SuiteError."""
    modules = HOME / "node_modules"
    with tempfile.TemporaryDirectory(prefix="conformance-") as results:
        done = subprocess.run(
            [
                modules / "node" / "bin" / "node",
                *("--import", HERE / "client-identity.mjs"),
                modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js",
                *("server", "--url", url, "--requirements", revision, "-o", results),
            ],
            env={
                **os.environ,
                "OSTIARY_MODULES": str(modules),
                **(identity.environment() if identity else {}),
            },
            cwd=results,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        verdicts = {name: Verdict(int(good), int(bad)) for name, good, bad in _SCENARIO.findall(done.stdout)}
        if not verdicts:
            raise SuiteError(f"The suite did not run:\n{done.stdout}\n{done.stderr}")
        return verdicts


def failures(url: str, scenario: str, revision: str, identity: Identity | None = None) -> list[str]:
    """Run one scenario; what its failed checks say."""
    modules = HOME / "node_modules"
    with tempfile.TemporaryDirectory(prefix="conformance-") as results:
        subprocess.run(
            [
                modules / "node" / "bin" / "node",
                *("--import", HERE / "client-identity.mjs"),
                modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js",
                *("server", "--url", url, "--scenario", scenario, "--spec-version", revision, "-o", results),
            ],
            env={
                **os.environ,
                "OSTIARY_MODULES": str(modules),
                **(identity.environment() if identity else {}),
            },
            cwd=results,
            capture_output=True,
            timeout=120,
            check=False,
        )
        checks = [
            check for file in Path(results).rglob("checks.json") for check in json.loads(file.read_text())
        ]
    return [
        f"{check['id']}: {check.get('errorMessage', check['description'])}"
        for check in checks
        if check["status"] == "FAILURE"
    ]
