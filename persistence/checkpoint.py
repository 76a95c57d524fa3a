"""The JSON files: what they look like, how they are read, and how their bytes are made without stopping the loop.

Each has ``version``, ``journal`` (the generation from which on the journal is to be replayed over it) and one array with
a record on each line. Last comes ``crc32`` of all that is before, so that a byte that went bad is never served; the audit
has its chain instead. A file without it was written by an older version.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from types import GenericAlias
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from persistence.changes import TOKENS, IntentBegun
from persistence.files import RESTORE, Folder
from persistence.records import ClientRecord, Kind, RecordT, StoreError, TokenRecord

VERSION: Final = 1
_END: Final = b"]}\n"
_CHECKSUM: Final = b',"crc32":"%08x"}\n'
_CHECKSUM_SIZE: Final = len(_CHECKSUM % 0)
_CHECKSUM_FORM: Final = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\n\Z')


UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises where a file is damaged."""


class CheckpointFile(Protocol):
    """What every file has."""

    @property
    def version(self) -> int:
        """Of the format."""

    @property
    def journal(self) -> int:
        """The generation that follows it."""


class ClientsFile(msgspec.Struct, frozen=True, kw_only=True):
    """``clients.json``."""

    version: int
    journal: int
    clients: list[ClientRecord]


class TokensFile(msgspec.Struct, frozen=True, kw_only=True):
    """``tokens.json``."""

    version: int
    journal: int
    tokens: list[TokenRecord]


class AuditFile(msgspec.Struct, frozen=True, kw_only=True):
    """``audit.json``: the newest segment, and the intents that were under way."""

    version: int
    journal: int
    segment: int
    first_seq: int
    prev: str | None = None
    """The hash of the entry before the first; None: written before there was a chain."""
    intents: tuple[IntentBegun, ...]
    entries: list[msgspec.Raw]


class _Version(msgspec.Struct):
    version: int


FileT = TypeVar("FileT", bound=CheckpointFile)


def file_name(part: str) -> str:
    """The name of a part's file."""
    return f"{part}.json"


def decode(data: bytes, shape: type[FileT], path: object) -> FileT:
    """Read a file. ``path`` is for messages.

    Raises:
        StoreError: It is not JSON, not of that shape, or of another version.
    """
    data = _without_checksum(data, 0, path)
    try:
        found = msgspec.json.decode(data, type=shape)
    except UNREADABLE as error:
        _check_version(data, path)
        raise StoreError(f"{path} is damaged ({error}): {RESTORE}") from error
    if found.version != VERSION:
        raise _other_version(path, found.version)
    return found


async def read_collection(folder: Folder, kind: Kind[RecordT]) -> tuple[int, list[RecordT]]:
    """Read the file of a collection: the generation that follows it, and the records.

    Raises:
        StoreError: As ``decode`` does, and where it cannot be read.
    """
    name = file_name(kind.name)
    found = decode(await folder.read(name), collection_shape(kind), folder.path / name)
    records: list[RecordT] = getattr(found, kind.name)
    return found.journal, records


def collection_shape(kind: Kind[RecordT]) -> type[CheckpointFile]:
    """What the file of a collection looks like."""
    fields: list[tuple[str, Any]] = [
        ("version", int),
        ("journal", int),
        (kind.name, GenericAlias(list, kind.record)),
    ]
    return cast(
        "type[CheckpointFile]", msgspec.defstruct(f"{kind.name}File", fields, frozen=True, kw_only=True)
    )


async def read_tokens(folder: Folder) -> tuple[int, list[TokenRecord]]:
    """Read ``tokens.json``: the generation that follows it, and the tokens.

    It is read piece by piece, so that its bytes are never in memory as a whole; one that is not laid out as ``encode``
    does is.

    Raises:
        StoreError: As ``decode`` does, and where it cannot be read.
    """
    name = file_name(TOKENS)
    try:
        async with aclosing(folder.pieces(name)) as pieces:
            return await _decode_by_lines(_checked(pieces, folder.path / name))
    except UNREADABLE:
        found = decode(await folder.read(name), TokensFile, folder.path / name)
        return found.journal, found.tokens


async def encode(head: dict[str, object], array: str, lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """A file's bytes: what ``head`` says, then ``array``, whose records come as newline-terminated lines.

    Between two items of ``lines`` others get their turn.
    """
    yield msgspec.json.encode({"version": VERSION, **head})[:-1] + b',"' + array.encode() + b'":['
    before = b"\n"
    for some in lines:
        if some:
            yield before + some[:-1].replace(b"\n", b",\n")
            before = b",\n"
        await asyncio.sleep(0)
    yield b"\n" + _END


async def with_checksum(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What ``encode`` gives, with the checksum at its end."""
    checksum, held = 0, b""
    async for piece in pieces:
        checksum = zlib.crc32(held, checksum)
        if held:
            yield held
        held = piece
    held = held.removesuffix(b"}\n")
    yield held + _CHECKSUM % zlib.crc32(held, checksum)


async def _checked(pieces: AsyncIterator[bytes], path: object) -> AsyncIterator[bytes]:
    """The bytes of a file, without the checksum. Raises StoreError at its end, where that is wrong."""
    checksum, held = 0, b""
    async for piece in pieces:
        held += piece
        ready, held = held[:-_CHECKSUM_SIZE], held[-_CHECKSUM_SIZE:]
        checksum = zlib.crc32(ready, checksum)
        yield ready
    yield _without_checksum(held, checksum, path)


def _without_checksum(data: bytes, before: int, path: object) -> bytes:
    """The end of a file, or all of it, without its checksum. ``before``: that of what comes before ``data``."""
    found = _CHECKSUM_FORM.search(data, max(0, len(data) - _CHECKSUM_SIZE))
    if found is None:
        return data
    body = data[: found.start()]
    if zlib.crc32(body, before) != int(found[1], 16):
        raise StoreError(f"{path} is damaged (its checksum is wrong): {RESTORE}")
    return body + b"}\n"


async def _decode_by_lines(pieces: AsyncIterator[bytes]) -> tuple[int, list[TokenRecord]]:
    """Raises msgspec.MsgspecError where it is not one record a line."""
    first, _, rest = (await anext(pieces, b"")).partition(b"[\n")
    head = msgspec.json.decode(first + b"[]}", type=TokensFile)
    decode_some = msgspec.json.Decoder(list[TokenRecord]).decode
    tokens: list[TokenRecord] = []
    texts: dict[str, str] = {}
    async for piece in pieces:
        whole, comma, begun = piece.rpartition(b",\n")
        if comma:
            tokens += _share(decode_some(b"[%b%b]" % (rest, whole)), texts)
            rest = begun
        else:
            rest += begun
    if head.version != VERSION or not rest.endswith(_END):
        raise msgspec.DecodeError("not laid out as expected")
    tokens += _share(decode_some(b"[%b]" % rest.removesuffix(_END)), texts)
    return head.journal, tokens


def _share(tokens: list[TokenRecord], texts: dict[str, str]) -> list[TokenRecord]:
    """The same tokens, which nobody has seen yet, with equal texts held once: that is a third of their memory.

    Family and time are compared with the token before only: those that were issued together stand together.
    """
    share = texts.setdefault
    change = msgspec.structs.force_setattr
    family, created_at = None, ""
    for token in tokens:
        change(token, "client_id", share(token.client_id, token.client_id))
        change(token, "tenant_id", share(token.tenant_id, token.tenant_id))
        thumbprint = token.certificate_thumbprint
        if thumbprint is not None:
            change(token, "certificate_thumbprint", share(thumbprint, thumbprint))
        if token.family_id == family:
            change(token, "family_id", family)
        if token.created_at == created_at:
            change(token, "created_at", created_at)
        family, created_at = token.family_id, token.created_at
    return tokens


def _check_version(data: bytes, path: object) -> None:
    try:
        found = msgspec.json.decode(data, type=_Version)
    except UNREADABLE:
        return
    if found.version != VERSION:
        raise _other_version(path, found.version)


def _other_version(path: object, version: int) -> StoreError:
    return StoreError(f"{path} has version {version}; this version of Ostiary reads version {VERSION}")
