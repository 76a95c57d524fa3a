"""What the journal holds: one struct for each kind of change. Live and at start, the same ``apply`` takes them."""

from __future__ import annotations

from typing import Final

import msgspec

from persistence.records import KINDS, AuditEntry, ClientRecord, TokenRecord

CLIENTS: Final = "clients"
TOKENS: Final = "tokens"
AUDIT: Final = "audit"
PARTS: Final = (CLIENTS, TOKENS, AUDIT, *(kind.name for kind in KINDS))
"""The parts of the store, each with its own JSON file."""


class ClientPut(msgspec.Struct, frozen=True, gc=False, tag="client"):
    """A client was inserted or replaced."""

    record: ClientRecord


class ClientRemoved(msgspec.Struct, frozen=True, gc=False, tag="client_removed"):
    """A client was forgotten."""

    client_id: str


class TokensPut(msgspec.Struct, frozen=True, gc=False, tag="tokens"):
    """Tokens were inserted or replaced, all in one write."""

    records: tuple[TokenRecord, ...]


class CollectionChanged(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="collection"):
    """Records of a collection were inserted or replaced, and others removed, all in one write."""

    collection: str
    """The name of its kind."""
    put: tuple[msgspec.Raw, ...] = ()
    remove: tuple[str, ...] = ()
    """Keys."""


class IntentBegun(msgspec.Struct, frozen=True, gc=False, tag="intent"):
    """Something is about to be forwarded."""

    number: int
    entry: AuditEntry


class EntryAdded(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="entry"):
    """The audit got an entry; ``entry`` is its line in the file, ``intent`` the number of the intent that it ends."""

    seq: int
    entry: msgspec.Raw
    intent: int | None = None


class Bases(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="bases"):
    """First in each journal but the first: from which checkpoint on each part needs this journal.

    A part whose file names the generation given here has not changed between that generation and this journal.
    """

    generations: dict[str, int]
    ends: dict[int, int] = {}
    """Where earlier journals end whose writing failed: what stands behind that was never acknowledged."""


Change = ClientPut | ClientRemoved | TokensPut | CollectionChanged | IntentBegun | EntryAdded | Bases
