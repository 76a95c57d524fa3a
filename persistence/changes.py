"""What the journal holds: one struct for each kind of change. Live and at start, the same ``apply`` takes them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from persistence.records import AuditEntry, ClientRecord, TokenRecord


class Part(StrEnum):
    """The three parts of the store, each with its own JSON file."""

    CLIENTS = "clients"
    TOKENS = "tokens"
    AUDIT = "audit"


class ClientPut(msgspec.Struct, frozen=True, gc=False, tag="client"):
    """A client was inserted or replaced."""

    record: ClientRecord


class TokensPut(msgspec.Struct, frozen=True, gc=False, tag="tokens"):
    """Tokens were inserted or replaced, all in one write."""

    records: tuple[TokenRecord, ...]


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

    generations: dict[Part, int]
    ends: dict[int, int] = {}
    """Where earlier journals end whose writing failed: what stands behind that was never acknowledged."""


Change = ClientPut | TokensPut | IntentBegun | EntryAdded | Bases
