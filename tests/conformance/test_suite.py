"""The official suite: the upstream passes it, and so does the gateway before it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conformance.door import gateway, identity, prepare, upstream, with_token
from tests.conformance.suite import REVISIONS, Verdict, required, run
from tests.npm.packages import available, install

pytestmark = [
    pytest.mark.skipif(
        not available() and "CI" not in os.environ, reason="the suite needs npm: apt-get install npm"
    ),
    pytest.mark.timeout(600),
]


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    install()


def _all_good(verdicts: dict[str, Verdict], revision: str) -> None:
    names = required(revision)
    assert len(names) == REVISIONS[revision]
    assert {name: str(verdicts[name]) for name in names if not verdicts[name].good} == {}


@pytest.mark.parametrize("revision", list(REVISIONS))
def test_the_upstream_conforms(revision: str) -> None:
    with upstream() as url:
        _all_good(run(url, revision), revision)


@pytest.mark.parametrize("revision", list(REVISIONS))
@pytest.mark.parametrize("token", [False, True], ids=["certificate", "certificate-and-token"])
def test_the_gateway_conforms_as_its_upstream_does(tmp_path: Path, revision: str, *, token: bool) -> None:
    folder = tmp_path / "gateway"
    with upstream() as url:
        prepare(folder, url)
        with gateway(folder) as door:
            who = with_token(door, identity(folder)) if token else identity(folder)
            _all_good(run(f"{door}/mcp", revision, who), revision)
