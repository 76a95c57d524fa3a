"""What makes the chain's end, and the files that it lies in, evident: two signed documents beside the log.

- ``audit-checkpoint.json``: number and hash of the newest entry that is signed for, and a digest of the intents that were
  under way. Rewritten with every ``audit.json``;
  a copy of it that is kept elsewhere proves later that nothing up to there was changed.
- ``audit-index.json``: where the chain begins, and for each sealed segment its entries, times, file and the file's
  SHA-256. Rewritten when a segment is sealed, pruned, compressed, or when somebody is erased from it.

Both are JSON without white space, with an Ed25519 signature (RFC 8032) over the document without its ``signature``,
behind a line that says which document it is. The key is in ``audit.key``: whoever can read that can sign whatever they
like, which is what the copy kept elsewhere is for.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import sha256
from typing import ClassVar, Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import UNSET, UnsetType

from persistence.changes import IntentBegun
from persistence.files import RESTORE
from persistence.records import SealedSegment, StoreError

VERSION: Final = 1
KEY: Final = "audit.key"
CHECKPOINT: Final = "audit-checkpoint.json"
INDEX: Final = "audit-index.json"
UPGRADED: Final = "upgraded"


class SegmentRecord(SealedSegment, frozen=True, kw_only=True):
    """A sealed segment and its file."""

    file: str
    """Its name in ``audit/``."""
    hash: str | None
    """Of its last entry; None: written before there was a chain."""
    sha256: str
    """Of the file."""


class ChainStart(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chain begins."""

    segment: int
    """The oldest segment that is kept."""
    seq: int
    """Its first entry, or the first one that is in the chain."""
    prev: str
    """The hash of the entry before."""
    reason: str
    """``new``, ``upgraded`` (earlier entries are not in the chain) or ``pruned``."""
    at: str


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """``audit-index.json``."""

    version: int = VERSION
    start: ChainStart
    segments: tuple[SegmentRecord, ...] = ()
    key: str
    """The public key, in base64."""
    bound: bool | UnsetType = UNSET
    """True once a checkpoint that names its journal was signed: from then on no other is good."""

    purpose: ClassVar[bytes] = b"ostiary audit index\n"

    def unsigned(self, checkpoint: Checkpoint) -> bool:
        """Whether the chain of an older version's store has begun, but nothing of it is signed for yet.

        Only then entries may still come that are not in the chain.
        """
        return self.bound is UNSET and self.start.reason == UPGRADED and checkpoint.seq < self.start.seq

    def checkpoint_problem(self, checkpoint: Checkpoint) -> str | None:
        """What is wrong with a checkpoint beside this index; None: nothing that it could say."""
        if self.bound is not UNSET and checkpoint.journal is UNSET:
            return f"an older version signed it, and this store was signed by a newer one since: an older state of {CHECKPOINT} was put in its place"
        return None


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """``audit-checkpoint.json``."""

    version: int = VERSION
    seq: int
    """The newest entry that is signed for; 0: none."""
    hash: str
    signed_at: str
    key: str
    """The public key, in base64."""
    journal: int | UnsetType = UNSET
    """The journal generation that begins behind what it is signed for; UNSET: an older version signed it."""
    intents: str | UnsetType = UNSET
    """``intents_digest`` of the intents that are under way where that generation begins."""

    purpose: ClassVar[bytes] = b"ostiary audit checkpoint\n"

    def intents_problem(self, intents: Sequence[IntentBegun] | None) -> str | None:
        """What is wrong with the intents that are found to be under way where ``journal`` begins; None: nothing.

        ``intents``: None where ``audit.json`` and the journals behind it have no such place.
        """
        if self.journal is UNSET:
            return None
        if intents is None:
            return f"it and the journals behind it do not fit the journal {self.journal} that {CHECKPOINT} is signed for"
        if intents_digest(intents) != self.intents:
            return f"the intents that were under way are not those that {CHECKPOINT} is signed for"
        return None

    def is_ahead_of(self, mine: Checkpoint) -> bool:
        """Whether it, which was published, cannot be an earlier state of the store that ``mine`` is of."""
        if self.journal is UNSET or mine.journal is UNSET:
            return False
        return self.journal > mine.journal or (self.journal == mine.journal and self.intents != mine.intents)


def intents_digest(intents: Sequence[IntentBegun]) -> str:
    """SHA-256, in base64, of the intents as ``audit.json`` has them."""
    return _base64(sha256(msgspec.json.encode(tuple(intents))).digest())


class _Signature(msgspec.Struct):
    signature: str


Signed = TypeVar("Signed", Index, Checkpoint)


class AuditKey:
    """The key that signs. Its repr shows the public part alone."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: str = _base64(
            private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        )
        """The public key, in base64."""

    def __repr__(self) -> str:
        return f"AuditKey({self.public})"

    @classmethod
    def generate(cls) -> AuditKey:
        """A new one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, pem: bytes, path: object) -> AuditKey:
        """The key of a PEM file (PKCS #8). Raises StoreError."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise StoreError(f"{path} is damaged: restore it from a backup") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise StoreError(f"{path} is not an Ed25519 key: restore it from a backup")
        return cls(private)

    def pem(self) -> bytes:
        """The file: a secret."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, document: Index | Checkpoint) -> bytes:
        """The document as its file has it."""
        body = msgspec.json.encode(document)
        return _with(body, _base64(self._private.sign(document.purpose + body)))


def read_signed(data: bytes, shape: type[Signed], path: object, remedy: str = RESTORE) -> Signed:
    """A document whose signature is that of the key which it names. ``path`` and ``remedy`` are for messages.

    Raises:
        StoreError: It is not one, or not byte for byte what was signed.
    """
    damaged = StoreError(f"{path} is damaged: {remedy}")
    try:
        found = msgspec.json.decode(data, type=shape)
        signature = msgspec.json.decode(data, type=_Signature).signature
        raw_signature, raw_key = base64.b64decode(signature), base64.b64decode(found.key)
    except (msgspec.MsgspecError, ValueError) as error:
        raise damaged from error
    if found.version != VERSION:
        raise StoreError(
            f"{path} has version {found.version}; this version of Ostiary reads version {VERSION}"
        )
    body = msgspec.json.encode(found)
    if data != _with(body, _base64(raw_signature)) or _base64(raw_key) != found.key:
        raise damaged
    try:
        Ed25519PublicKey.from_public_bytes(raw_key).verify(raw_signature, shape.purpose + body)
    except (InvalidSignature, ValueError) as error:
        raise StoreError(f"the signature of {path} is wrong: {remedy}") from error
    return found


def _with(body: bytes, signature: str) -> bytes:
    return b'%b,"signature":"%b"}\n' % (body[:-1], signature.encode())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
