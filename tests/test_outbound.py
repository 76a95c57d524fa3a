"""The outbound HTTP client against servers that are written byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gateway.outbound import client as outbound
from gateway.outbound.client import (
    ConnectError,
    DisconnectedError,
    HttpClient,
    OutboundError,
    RequestError,
    ResponseError,
    encode_headers,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Peer:
    """A server that does with each connection what its script says; it remembers what it was sent."""

    url: str = ""
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        return head


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the loop has no event for it
        await asyncio.sleep(0)


Script = Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    peer = Peer()
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        peer.connections += 1
        try:
            await script(peer, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            peer.closed.set()
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=context)
    scheme = "http" if context is None else "https"
    peer.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield peer
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def client_of(peer: Peer) -> AsyncIterator[HttpClient]:
    client = HttpClient(peer.url)
    try:
        yield client
    finally:
        await client.close()


def answering(*answers: bytes, then_close: bool = False) -> Script:
    """Each request on a connection gets the next answer."""

    async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await peer.head(reader)
            writer.write(answer)
            await writer.drain()
        if not then_close:
            await reader.read()
            peer.closed.set()

    return script


async def echoing(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the body that it was sent, for ever."""
    while True:
        head = (await peer.head(reader)).lower()
        if b"transfer-encoding: chunked" in head:
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length or 0))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


class TestTheRequest:
    async def test_carries_what_it_was_given_and_host_and_length(self) -> None:
        async with serving(echoing) as peer, client_of(peer) as client:
            response = await client.send("POST", "/mcp?x=1", [("X-A", "b")], b"hello")
            assert (response.status, response.reason, await response.read(10)) == (200, "OK", b"hello")
            host = peer.url.removeprefix("http://").encode()
            assert peer.heads == [
                b"POST /mcp?x=1 HTTP/1.1\r\nHost: %b\r\nX-A: b\r\nContent-Length: 5\r\n\r\n" % host
            ]

    async def test_without_body_says_so_only_where_one_is_expected(self) -> None:
        async with serving(echoing) as peer, client_of(peer) as client:
            await client.send("GET", "/")
            await client.send("POST", "/")
            assert b"Content-Length" not in peer.heads[0]
            assert b"Content-Length: 0\r\n" in peer.heads[1]

    async def test_streams_a_body_of_unknown_length_in_chunks(self) -> None:
        async with serving(echoing) as peer, client_of(peer) as client:
            response = await client.send("POST", "/", (), pieces(b"a" * 70_000, b"", b"b"))
            assert await response.read(100_000) == b"a" * 70_000 + b"b"
            assert await (await client.send("POST", "/", (), b"again")).read(9) == b"again"
            assert peer.connections == 1

    async def test_streams_a_body_of_known_length_as_it_is(self) -> None:
        async with serving(echoing) as peer, client_of(peer) as client:
            response = await client.send("PUT", "/", [("Content-Length", "4")], pieces(b"ab", b"cd"))
            assert await response.read(9) == b"abcd"
            assert b"Transfer-Encoding" not in peer.heads[0]

    @pytest.mark.parametrize("length", ["3", "5"])
    async def test_whose_body_is_not_as_long_as_it_says_is_broken_off(self, length: str) -> None:
        async with serving(echoing) as peer, client_of(peer) as client:
            with pytest.raises(OutboundError):
                await client.send("PUT", "/", [("Content-Length", length)], pieces(b"ab", b"cd"))

    @pytest.mark.parametrize(
        ("method", "target", "headers"),
        [
            ("GET", "/a b", ()),
            ("GET", "/a\r\nX: y", ()),
            ("GET", "", ()),
            ("G ET", "/", ()),
            ("GET", "/", [("X", "a\r\nY: b")]),
            ("GET", "/", [("X", "a\nb")]),
            ("GET", "/", [("X", "a\0b")]),
            ("GET", "/", [("X:", "a")]),
            ("GET", "/", [("", "a")]),
            ("POST", "/", [("Transfer-Encoding", "chunked")]),
            ("POST", "/", [("Connection", "close")]),
            ("POST", "/", [("Content-Length", "1"), ("Content-Length", "1")]),
            ("POST", "/", [("Content-Length", "+1")]),
            ("POST", "/", [("Content-Length", "7")]),
        ],
    )
    async def test_that_could_be_read_as_two_is_refused(
        self, method: str, target: str, headers: list[tuple[str, str]]
    ) -> None:
        client = HttpClient("http://127.0.0.1:1")
        with pytest.raises(RequestError) as caught:
            await client.send(method, target, headers, b"")
        assert not caught.value.sent

    @given(st.text(), st.text())
    def test_headers_are_one_line_each_or_refused(self, name: str, value: str) -> None:
        try:
            block = encode_headers([(name, value)]).block
        except (RequestError, UnicodeEncodeError):
            return
        assert block.count(b"\r\n") <= 1
        assert block.count(b"\n") == block.count(b"\r") == block.count(b"\r\n")
        assert b"\0" not in block

    def test_headers_keep_their_secrets(self) -> None:
        assert "hunter2" not in repr(encode_headers([("Authorization", "hunter2")]))


class TestThePool:
    async def test_uses_one_connection_for_requests_that_follow_each_other(self) -> None:
        async with serving(echoing) as peer, client_of(peer) as client:
            for number in range(50):
                response = await client.send("POST", "/", (), b"%d" % number)
                assert await response.read(9) == b"%d" % number
            assert peer.connections == 1
            assert repr(client).endswith("connections=1 idle=1>")

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
    async def test_sends_nothing_after_a_body_that_a_server_may_leave_unread(self, method: str) -> None:
        """A server that looks for no body there would take it for the next request, and answer another caller with it."""
        async with serving(answering(OK, OK)) as peer, client_of(peer) as client:
            await (await client.send(method, "/", (), b"GET /evil HTTP/1.1\r\n\r\n")).read(9)
            await until(lambda: "connections=0" in repr(client))
            assert (await client.send("GET", "/next")).status == 200
            assert peer.connections == 2
            assert b"Connection: close" in peer.heads[0]

    async def test_never_mixes_answers_of_requests_at_the_same_time(self) -> None:
        async with serving(echoing) as peer, client_of(peer) as client:

            async def ask(number: int) -> None:
                for turn in range(20):
                    body = b"%d-%d" % (number, turn)
                    assert await (await client.send("POST", "/", (), body)).read(99) == body

            await asyncio.gather(*(ask(number) for number in range(40)))
            assert peer.connections <= 40

    async def test_survives_a_crowd_that_is_cancelled_in_part(self) -> None:
        async with serving(echoing) as peer, client_of(peer) as client:

            async def ask(number: int) -> bytes:
                return await (await client.send("POST", "/", (), b"%d" % number)).read(99)

            for turn in range(10):
                tasks = [asyncio.create_task(ask(number)) for number in range(20)]
                for _ in range(turn):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
                assert answers[1::2] == [b"%d" % number for number in range(1, 20, 2)]

    async def test_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbound, "MAX_IDLE", 2)
        async with serving(echoing) as peer, client_of(peer) as client:
            await asyncio.gather(*(client.send("POST", "/", (), b"x") for _ in range(8)))
            assert repr(client).endswith("idle=2>")

    async def test_drops_what_is_idle_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbound, "IDLE_SECONDS", 0.05)
        async with serving(answering(OK)) as peer, client_of(peer) as client:
            await client.send("GET", "/")
            await peer.closed.wait()

    async def test_does_not_hand_out_what_the_server_closed(self) -> None:
        async with serving(answering(OK, then_close=True)) as peer, client_of(peer) as client:
            for turn in range(3):
                assert (await client.send("POST", "/", (), b"")).status == 200
                await until(lambda: "connections=0" in repr(client))
                assert peer.connections == turn + 1

    @pytest.mark.parametrize(
        "answer",
        [
            OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            OK + b"garbage",
            OK + b"\r\nX",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ],
    )
    async def test_keeps_no_connection_that_said_more_than_it_was_asked(self, answer: bytes) -> None:
        async with serving(answering(answer)) as peer, client_of(peer) as client:
            assert await (await client.send("GET", "/")).read(9) == b"ok"
            await peer.closed.wait()
            assert await (await client.send("GET", "/")).read(9) == b"ok"
            assert peer.connections == 2

    async def test_keeps_no_connection_that_speaks_unasked(self) -> None:
        speak = asyncio.Event()

        async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.head(reader)
            writer.write(OK)
            await speak.wait()
            writer.write(OK)
            await reader.read()
            peer.closed.set()

        async with serving(script) as peer, client_of(peer) as client:
            assert await (await client.send("GET", "/")).read(9) == b"ok"
            speak.set()
            await peer.closed.wait()
            assert await (await client.send("GET", "/")).read(9) == b"ok"
            assert peer.connections == 2


class TestSendingAgain:
    @staticmethod
    async def one_then_nothing(
        peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """The first connection answers once and dies at the second request; later ones answer."""
        first = peer.connections == 1
        await peer.head(reader)
        writer.write(OK)
        await peer.head(reader)
        if not first:
            writer.write(OK)

    async def test_a_request_without_body_is_sent_again(self) -> None:
        async with serving(self.one_then_nothing) as peer, client_of(peer) as client:
            for _ in range(2):
                assert (await client.send("GET", "/")).status == 200
            assert len(peer.heads) == 3

    async def test_a_request_with_a_body_is_not(self) -> None:
        async with serving(self.one_then_nothing) as peer, client_of(peer) as client:
            await client.send("POST", "/", (), b"x")
            with pytest.raises(DisconnectedError) as caught:
                await client.send("POST", "/", (), b"x")
            assert caught.value.sent
            assert len(peer.heads) == 2

    async def test_a_new_connection_that_dies_is_an_error(self) -> None:
        async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.head(reader)

        async with serving(script) as peer, client_of(peer) as client:
            with pytest.raises(DisconnectedError):
                await client.send("GET", "/")
            assert peer.connections == 1


class TestTheResponse:
    @pytest.mark.parametrize(
        ("method", "answer", "body"),
        [
            ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
            ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
            ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b""),
            ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
            ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
            ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
            (
                "GET",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: t\r\n\r\n",
                b"abc",
            ),
        ],
    )
    async def test_ends_where_it_says_and_the_connection_goes_on(
        self, method: str, answer: bytes, body: bytes
    ) -> None:
        async with serving(answering(answer, OK)) as peer, client_of(peer) as client:
            assert await (await client.send(method, "/")).read(9) == body
            assert await (await client.send("GET", "/")).read(9) == b"ok"
            assert peer.connections == 1

    async def test_may_end_with_the_connection(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\n\r\nall that is"
        async with serving(answering(answer, then_close=True)) as peer, client_of(peer) as client:
            assert await (await client.send("GET", "/")).read(99) == b"all that is"

    @given(st.lists(st.integers(0, 120), max_size=8))
    def test_is_the_same_however_it_is_cut(self, cuts: list[int]) -> None:
        whole = (
            b"HTTP/1.1 200 Fine\r\nX-Empty:\r\nX-A:  b \r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        )

        async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.head(reader)
            begin = 0
            for end in [*sorted(cuts), len(whole)]:
                writer.write(whole[begin:end])
                begin = max(begin, end)
                await writer.drain()
                await asyncio.sleep(0)

        async def read() -> None:
            async with serving(script) as peer, client_of(peer) as client:
                response = await client.send("GET", "/")
                fields = [("X-Empty", ""), ("X-A", "b"), ("Transfer-Encoding", "chunked")]
                assert (response.reason, response.headers.items()) == ("Fine", fields)
                assert (response.headers.get("x-a"), response.headers.get("x-b")) == ("b", None)
                assert await response.read(99) == b"abcdefg"

        asyncio.run(read())

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        ],
    )
    async def test_that_is_cut_short_is_an_error(self, answer: bytes) -> None:
        async with serving(answering(answer, then_close=True)) as peer, client_of(peer) as client:
            response = await client.send("GET", "/")
            with pytest.raises(DisconnectedError):
                await response.read(99)

    @pytest.mark.parametrize(
        "answer",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000,
            b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        ],
        ids=lambda answer: answer[:60].decode(),
    )
    async def test_that_is_not_to_be_trusted_is_an_error(self, answer: bytes) -> None:
        async with serving(answering(answer)) as peer, client_of(peer) as client:
            with pytest.raises(ResponseError):
                await client.send("GET", "/")
            await peer.closed.wait()

    async def test_that_is_larger_than_wanted_is_an_error(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
        async with serving(answering(answer)) as peer, client_of(peer) as client:
            with pytest.raises(ResponseError):
                await (await client.send("GET", "/")).read(99)

    async def test_holds_the_server_back_while_nobody_reads(self) -> None:
        total, written = 64 * 1024 * 1024, 0

        async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await peer.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            for _ in range(total // 65536):
                writer.write(b"x" * 65536)
                await writer.drain()
                written += 65536

        async with serving(script) as peer, client_of(peer) as client:
            response = await client.send("GET", "/")
            before = -1
            while written != before:  # until it stands still
                before = written
                await asyncio.sleep(0.1)
            assert 0 < written < total // 2
            size = 0
            while piece := await response.chunk():
                size += len(piece)
            assert size == total

    async def test_may_come_before_the_whole_request_was_sent(self) -> None:
        async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.head(reader)
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
            peer.closed.set()

        ended = False

        async def endless() -> AsyncIterator[bytes]:
            nonlocal ended
            try:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0)
            finally:
                ended = True

        async with serving(script) as peer, client_of(peer) as client:
            body = endless()
            assert (await client.send("POST", "/", (), body)).status == 413
            assert ended
            await peer.closed.wait()
            assert "idle=0" in repr(client)

    async def test_that_is_closed_early_closes_the_connection(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
        async with serving(answering(answer)) as peer, client_of(peer) as client:
            response = await client.send("GET", "/")
            response.close()
            await peer.closed.wait()

    async def test_that_is_drained_gives_the_connection_back(self) -> None:
        go_on = asyncio.Event()

        async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            await go_on.wait()
            writer.write(b"0\r\n\r\n")
            await peer.head(reader)
            writer.write(OK)

        async with serving(script) as peer, client_of(peer) as client:
            response = await client.send("GET", "/")
            assert await response.chunk() == b"half"
            response.drain()
            go_on.set()
            await until(lambda: "idle=1" in repr(client))
            assert (await client.send("GET", "/")).status == 200
            assert peer.connections == 1


class TestCancelling:
    async def test_whoever_waits_for_a_head_closes_the_connection(self) -> None:
        asked = asyncio.Event()

        async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.head(reader)
            asked.set()
            await reader.read()
            peer.closed.set()

        async with serving(script) as peer, client_of(peer) as client:
            task = asyncio.create_task(client.send("POST", "/", (), b"x"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await peer.closed.wait()

    async def test_whoever_waits_for_a_body_closes_the_connection(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        async with serving(answering(answer)) as peer, client_of(peer) as client:
            response = await client.send("GET", "/")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await response.chunk()
            await peer.closed.wait()


class TestConnecting:
    async def test_refused(self, unused_tcp_port: int) -> None:
        with pytest.raises(ConnectError) as caught:
            await HttpClient(f"http://127.0.0.1:{unused_tcp_port}").send("POST", "/", (), b"x")
        assert not caught.value.sent

    async def test_too_slow(self) -> None:
        async def script(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with serving(script) as peer:  # it never shakes hands
            client = HttpClient(peer.url.replace("http", "https"))
            with pytest.raises(ConnectError):
                await client.send("GET", "/", connect_timeout=0.05)

    async def test_after_closing(self) -> None:
        async with serving(echoing) as peer:
            client = HttpClient(peer.url)
            await client.send("GET", "/")
            await client.close()
            with pytest.raises(ConnectError):
                await client.send("GET", "/")

    async def test_over_tls_to_whom_it_trusts_alone(self) -> None:
        authority = trustme.CA()
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server_context)
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(trusting)
        async with serving(echoing, server_context) as peer:
            client = HttpClient(peer.url, ssl_context=trusting)
            for body in (b"a" * 100_000, b"b"):
                assert await (await client.send("POST", "/", (), body)).read(200_000) == body
            assert peer.connections == 1
            await client.close()
            with pytest.raises(ConnectError):
                await HttpClient(peer.url).send("GET", "/")

    @pytest.mark.parametrize("origin", ["ftp://x", "http://", "http://user@x", "x"])
    def test_to_what_is_no_origin(self, origin: str) -> None:
        with pytest.raises(ValueError, match="an origin is"):
            HttpClient(origin)
