"""One line an event, whatever is in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from gateway.telemetry.logs import start_logging


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


def test_a_line_says_when_how_bad_and_what(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(lambda: 0.5)
    start_logging(lambda: 0.5)
    logging.getLogger("ostiary.mcp").warning("upstream %s is left out: %s", "a\nb", "é")
    logging.getLogger("ostiary.mcp").info("not shown")
    expected = "1970-01-01T00:00:00.500Z WARNING ostiary.mcp: upstream a\\nb is left out: \\xe9\n"
    assert capsys.readouterr().err == expected


def test_a_traceback_is_indented_below_its_line(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(lambda: 0.0)
    try:
        raise RuntimeError("why")
    except RuntimeError:
        logging.getLogger("ostiary.errors").exception("request r1 failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1970-01-01T00:00:00.000Z ERROR ostiary.errors: request r1 failed"
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1] == "    RuntimeError: why"
