"""The TLS side of a connection, watched: whom a failed handshake refused, and what a client costs that sends no data.

Python's ``ssl`` keeps the certificate of a failed handshake to itself; here it is taken from the handshake's messages
as they go by. After the handshake nothing listens to them any more.

OpenSSL takes all the records that it can get before it returns from one read. A TLS 1.3 client may send KeyUpdate
messages without end (about 14 µs of work each, and an answer to every one), so 256 KB of them hold up everybody for a
seventh of a second. So a read gets ``PORTION`` bytes at a time, and a connection is ended once ``MAX_BARREN`` bytes of
records have brought no data.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final

PORTION: Final = 16 * 1024 + 512
"""Bytes that OpenSSL gets at a time: a little more than the largest record (RFC 8446 section 5.2)."""
RECORD_OVERHEAD: Final = 256
"""Bytes that a record may have beside its data: at most 29 are needed, the rest is for padding (section 5.4)."""
MAX_BARREN: Final = 8 * 1024
"""Bytes of records without data (key updates, attempts to renegotiate) beyond that."""
_HANDSHAKE: Final = 22
_CERTIFICATE: Final = 11


class BarrenRecordsError(ssl.SSLError):
    """The client sends records without data."""

    reason_word: Final = "records_without_data"


class WitnessedTls(ssl.SSLObject):
    """Set it as a context's ``sslobject_class``."""

    presented: bytes | None = None
    """The client's certificate in DER, once it was seen in the handshake."""
    _barren: int = 0
    _outer: ssl.MemoryBIO
    """What has come from the network."""
    _inner: ssl.MemoryBIO
    """What OpenSSL has been given of it."""
    _outgoing: ssl.MemoryBIO
    """What is to be sent."""

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> WitnessedTls:
        inner = ssl.MemoryBIO()
        context = options["context"]
        _listen(context, _overheard)
        try:
            self: WitnessedTls = super()._create(inner, outgoing, **options)  # type: ignore[misc]
        finally:
            _listen(context, None)
        self._outer, self._inner, self._outgoing = incoming, inner, outgoing
        return self

    def do_handshake(self) -> None:
        """As ``SSLObject.do_handshake``.

        A failure has ``presented``, the certificate of who was refused, and ``alert``, the bytes that tell them: the event
        loops send nothing after a failure.
        """
        self._feed(self._outer.pending)
        context = self.context
        _listen(context, _overheard)
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.presented = self.presented  # type: ignore[attr-defined]
            error.alert = self._outgoing.read()  # type: ignore[attr-defined]
            raise
        finally:
            _listen(context, None)
        self.presented = None
        self._outer.write(self._inner.read())  # the first request: uvloop looks for it there

    def read(self, most: int = 1024, buffer: Any = None, /) -> Any:
        """As ``SSLObject.read``, but of as many records as have come. Raises BarrenRecordsError.

        uvloop asks no further once its own buffer is empty, so nothing may be left in ours.
        """
        if buffer is not None:
            return self._read_one(most, buffer)
        data = self._read_one(most, None)
        if not (self._inner.pending or self._outer.pending) or not data:
            return data
        pieces, size = [data], len(data)
        try:
            while size < most and (self._inner.pending or self._outer.pending):
                piece = self._read_one(most - size, None)
                if not piece:
                    break
                pieces.append(piece)
                size += len(piece)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass  # what there is comes first; the next read meets it again
        return b"".join(pieces)

    def _read_one(self, most: int, buffer: Any) -> Any:
        """What one record holds."""
        inner = self._inner
        while True:
            if not inner.pending and (self._outer.pending or self._outer.eof):
                self._feed(PORTION)
            before = inner.pending
            try:
                got: Any = super().read(most, buffer)
            except ssl.SSLWantReadError:
                self._account(before - inner.pending)
                if self._outer.pending:
                    self._feed(PORTION)
                    continue
                raise
            size = got if buffer is not None else len(got)
            self._account(before - inner.pending - size - RECORD_OVERHEAD)
            return got

    def unwrap(self) -> None:
        """As ``SSLObject.unwrap``."""
        self._feed(self._outer.pending)
        super().unwrap()

    def _feed(self, size: int) -> None:
        if size and self._outer.pending:
            self._inner.write(self._outer.read(size))
        if self._outer.eof and not self._inner.eof:
            self._inner.write_eof()

    def _account(self, barren: int) -> None:
        """Count bytes that brought nothing; those of a record that came in part count until it is whole."""
        self._barren = max(0, self._barren + barren)
        if self._barren > PORTION + MAX_BARREN:
            raise BarrenRecordsError(ssl.SSL_ERROR_SSL, "records without data")


def _overheard(
    connection: Any,
    direction: str,
    _version: int,
    content_type: int,
    message_type: int,
    data: bytes,
) -> None:
    if content_type == _HANDSHAKE and message_type == _CERTIFICATE and direction == "read":
        connection.presented = first_certificate(data) or connection.presented


def first_certificate(message: bytes) -> bytes | None:
    """The first certificate in a Certificate message, in DER; None: there is none (RFC 8446 section 4.4.2).

    In TLS 1.2 (RFC 5246 section 7.4.2) the list follows the header at once; in 1.3 there is the request's context
    before it, which is empty in a handshake.
    """
    for start in (4, 5):
        listed = int.from_bytes(message[start : start + 3])
        if start + 3 + listed == len(message) and listed > 3:
            size = int.from_bytes(message[start + 3 : start + 6])
            der = message[start + 6 : start + 6 + size]
            return der if 0 < size == len(der) else None
    return None


if TYPE_CHECKING:
    _MESSAGES: Any
else:
    _MESSAGES = getattr(ssl.SSLContext.__mro__[1], "_msg_callback", None)


def _listen(context: ssl.SSLContext, callback: Any) -> None:
    """Have the context's handshake messages told. The property of ``ssl`` itself turns each into enumerations first."""
    if _MESSAGES is not None:
        _MESSAGES.__set__(context, callback)


def witness(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context; its connections are watched."""
    context.sslobject_class = WitnessedTls
    return context
