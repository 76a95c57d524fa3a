"""The official MCP conformance suite: run against a URL, its verdict read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.npm.packages import MODULES, NODE, module

HERE = Path(__file__).resolve().parent
REVISIONS = {"2025-11-25": 30, "2026-07-28": 37}
"""How many scenarios each requires of a server."""
_SCENARIO = re.compile(r"^[✓✗] ([\w.-]+): (\d+) passed, (\d+) failed$", re.MULTILINE)


class SuiteError(Exception):
    """The suite cannot be run; the message says why."""


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


def required(revision: str) -> list[str]:
    """The scenarios that the revision requires of a server, in the suite's order."""
    text = module("conformance", f"requirements/{revision}.yaml").read_text()
    block = text.partition("\nserver:\n")[2].partition("\n\n")[0]
    return [line.strip().removeprefix("- ") for line in block.splitlines()]


def run(url: str, revision: str, identity: Identity | None = None) -> dict[str, Verdict]:
    """Run all that the revision names; what became of each scenario. Raises SuiteError."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as results:
        done = subprocess.run(
            [
                NODE,
                *("--import", HERE / "client-identity.mjs"),
                module("conformance", "dist/index.js"),
                *("server", "--url", url, "--requirements", revision, "-o", results),
            ],
            env={
                **os.environ,
                "OSTIARY_MODULES": str(MODULES),
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
    with tempfile.TemporaryDirectory(prefix="conformance-") as results:
        subprocess.run(
            [
                NODE,
                *("--import", HERE / "client-identity.mjs"),
                module("conformance", "dist/index.js"),
                *("server", "--url", url, "--scenario", scenario, "--spec-version", revision, "-o", results),
            ],
            env={
                **os.environ,
                "OSTIARY_MODULES": str(MODULES),
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
