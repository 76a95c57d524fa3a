"""Records, and stores of the json backend as tests open them: at a time that stands still."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from persistence import JsonStores
from persistence.records import (
    AuditEntry,
    AuditQuery,
    AuditStatus,
    ClientRecord,
    TokenKind,
    TokenRecord,
)

NOW = 1_800_000_000.0
NEVER = 3600.0
"""A pause before checkpoints that no test waits for."""
TIME = "2027-01-15T08:00:00.000Z"


def client(client_id: str, **more: Any) -> ClientRecord:
    return ClientRecord(
        client_id=client_id, username=client_id, user_id="u", created_at=TIME, updated_at=TIME, **more
    )


def token(token_id: str, **more: Any) -> TokenRecord:
    fields = {"client_id": "a", "kind": TokenKind.ACCESS, "exp": int(NOW) + 60, "created_at": TIME}
    return TokenRecord(token_id=token_id, **(fields | more))


def entry(target: str, **more: Any) -> AuditEntry:
    return AuditEntry(timestamp=TIME, event="tool_call", status=AuditStatus.OK, target=target, **more)


async def opened(folder: Path, *, pause: float = NEVER, **more: Any) -> JsonStores:
    return await JsonStores.open(folder, now=lambda: NOW, pause=pause, **more)


@contextlib.asynccontextmanager
async def store(folder: Path, **more: Any) -> AsyncIterator[JsonStores]:
    stores = await opened(folder, **more)
    try:
        yield stores
    finally:
        await stores.close()


async def entries(stores: JsonStores, **query: Any) -> list[AuditEntry]:
    """Oldest first, as the journal has them."""
    return list((await stores.audit.query(AuditQuery(limit=1000, **query))).entries)[::-1]


def state(stores: JsonStores) -> tuple[dict[str, ClientRecord], dict[str, TokenRecord]]:
    return {c.client_id: c for c in stores.clients}, {t.token_id: t for t in stores.tokens}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is on disk
            await asyncio.sleep(0.01)


def crashed(folder: Path, copy: Path) -> Path:
    """What a crash at this instant would leave."""
    shutil.copytree(folder, copy, symlinks=True)
    return copy


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("journal-*.log"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
