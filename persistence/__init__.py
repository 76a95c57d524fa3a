"""What Ostiary keeps: clients, tokens and audit, crash-safe in JSON files.

``records`` has the frozen records, ``protocols`` what stores promise; ``open_stores`` opens the json backend, whose promises
are told in ``json_store``. From the bottom up:

- ``files``: private folders and files, replaced as a whole or not at all; the lock.
- ``frames``, ``journal``: where each change is made durable, many of them with one fdatasync.
- ``changes``: what the journal holds.
- ``clients``, ``tokens``, ``audit_log``: the state in memory, and its queries; ``collection``: every other kind of record
  (``records.KINDS``); ``large``: dictionaries of millions that keep nobody waiting.
- ``audit_chain``: an entry's line, which holds the hash of the one before; ``audit_segments``: lines as files;
  ``audit_checkpoint``: the signed documents; ``audit_archive``: the sealed segments, pruned, compressed, erased from
  (``audit_erasure``); ``audit_state``, ``audit_verify``, ``audit_export``: the audit read from outside.
- ``checkpoint``, ``checkpointer``: the JSON files, and when they are written. ``snapshot``, ``backup``: all of them as they
  were at one instant, read and put back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from persistence.json_store import JsonStores, StoreStats, missing_store
from persistence.protocols import AuditStore, ClientStore, Intent, Stores, TokenStore
from persistence.records import (
    DEFAULT_TENANT,
    AuditEntry,
    AuditPage,
    AuditQuery,
    AuditStatus,
    ClientRecord,
    StoreError,
    TokenKind,
    TokenRecord,
)

__all__ = [
    "DEFAULT_TENANT",
    "AuditEntry",
    "AuditPage",
    "AuditQuery",
    "AuditStatus",
    "AuditStore",
    "ClientRecord",
    "ClientStore",
    "Intent",
    "JsonStores",
    "StoreError",
    "StoreStats",
    "Stores",
    "TokenKind",
    "TokenRecord",
    "TokenStore",
    "missing_store",
    "open_stores",
]


async def open_stores(
    path: Path, *, now: Callable[[], float], create: bool = True, checkpoint_file: Path | None = None
) -> JsonStores:
    """Open the json backend in the folder ``path``; an empty folder becomes a new store.

    ``create``: so does a missing folder, and one with other things in it. Without it these are taken for what they
    mostly are, a mistyped path or a store that was lost, and refused. ``now``: seconds since the epoch.
    ``checkpoint_file``: where the audit's signed checkpoint is published, too.

    Raises:
        StoreError: It is not there, in use, damaged, of another version, not private, or cannot be read or written. The message
            names the file and what to do.
    """
    return await JsonStores.open(path, now=now, create=create, checkpoint_file=checkpoint_file)
