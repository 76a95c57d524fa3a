"""The parser of server-sent events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.sse import Event, EventParser, EventTooLargeError

STREAM = (
    b"\xef\xbb\xbf: a comment\n"
    b"event: message\ndata: {\ndata:  1}\nid: 7\n\n"
    b"data\r\n\r\n"
    b"retry: 1500\r\n\r\n"
    b"data:no space\rdata: two\r\r"
    b"event: other\r\nid: 8\r\nunknown: x\r\ndata: x\r\n\r\n"
    b"id: 9\ndata: \n\n"
    b"data: never ended"
)
EVENTS = [Event(b"message", b"{\n 1}"), Event(b"message", b"no space\ntwo"), Event(b"other", b"x")]


def parsed(*pieces: bytes) -> tuple[list[Event], EventParser]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)], parser


def test_reads_a_whole_stream() -> None:
    events, parser = parsed(STREAM)
    assert events == EVENTS
    assert (parser.last_id, parser.retry) == ("9", 1.5)


@pytest.mark.parametrize("cut", range(len(STREAM)))
def test_reads_the_same_wherever_it_is_cut(cut: int) -> None:
    assert parsed(STREAM[:cut], STREAM[cut:])[0] == EVENTS


def test_reads_the_same_byte_by_byte() -> None:
    assert parsed(*(STREAM[at : at + 1] for at in range(len(STREAM))))[0] == EVENTS


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_gives_an_event_as_soon_as_it_is_complete(end: bytes) -> None:
    assert parsed(b"data: x" + end + end)[0] == [Event(b"message", b"x")]


@given(
    st.lists(st.lists(st.binary().filter(lambda line: not set(line) & set(b"\r\n")), min_size=1)),
    st.sampled_from([b"\n", b"\r", b"\r\n"]),
    st.lists(st.integers(min_value=0, max_value=2000), max_size=10),
)
def test_gives_back_what_was_written(events: list[list[bytes]], end: bytes, cuts: list[int]) -> None:
    stream = b"".join(b"".join(b"data: " + line + end for line in lines) + end for lines in events)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[begin:stop] for begin, stop in itertools.pairwise(bounds)]
    written = [b"\n".join(lines) for lines in events]
    assert [event.data for event in parsed(*pieces)[0]] == [data for data in written if data]


@given(st.lists(st.binary(max_size=50)))
def test_takes_anything(pieces: list[bytes]) -> None:
    parsed(*pieces)


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 101, b"data: 12345678\n" * 12, b"x" * 101])
def test_refuses_an_event_that_is_too_large(stream: bytes) -> None:
    parser = EventParser(max_event=100)
    pieces = [stream[at : at + 7] for at in range(0, len(stream), 7)]
    with pytest.raises(EventTooLargeError):
        list(map(parser.feed, pieces))


def test_ignores_an_id_with_a_nul_and_a_retry_that_is_no_number() -> None:
    _, parser = parsed(b"id: a\0b\nretry: soon\n\n")
    assert (parser.last_id, parser.retry) == (None, None)
