"""What is left of erased clients: enough to recognise a name or a certificate id, not enough to read one.

A tombstone is HMAC-SHA-256 (RFC 2104) of what it stands for, with a key of the store's own. Who has the store, and so the key, can
test a guess; nobody can list the names.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from persistence.protocols import Collection, Stores
from persistence.records import TOMBSTONE_KEYS, TOMBSTONES, Tombstone, TombstoneKey

NAME: Final = "client"
CERTIFICATE: Final = "certificate"
TENANT: Final = "tenant"
_KEY_ID: Final = "1"
KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Tombstones:
    """All tombstones of a store."""

    stones: Collection[Tombstone]
    keys: Collection[TombstoneKey]

    @classmethod
    def of(cls, stores: Stores) -> Tombstones:
        """Those of ``stores``."""
        return cls(stores.collection(TOMBSTONES), stores.collection(TOMBSTONE_KEYS))

    def of_name(self, client_id: str) -> Tombstone | None:
        """Of the client that had the name."""
        return self._find(NAME, client_id)

    def of_certificate(self, certificate_id: str) -> Tombstone | None:
        """Of the client whose certificates yielded that id."""
        return self._find(CERTIFICATE, certificate_id)

    def of_tenant(self, tenant_id: str) -> Tombstone | None:
        """Of a tenant that was removed."""
        return self._find(TENANT, tenant_id)

    async def bury(
        self,
        what: list[tuple[str, str]],
        *,
        tenant_id: str,
        pseudonym: str,
        erased_at: str,
        random: Callable[[int], bytes],
    ) -> None:
        """Put a tombstone for each (kind, text). ``random`` gives so many bytes, for the key. Raises StoreError."""
        if self.keys.get(_KEY_ID) is None:
            await self.keys.put(TombstoneKey(key_id=_KEY_ID, key=random(KEY_BYTES).hex()))
        stones = []
        for kind, text in what:
            digest = self._digest(kind, text)
            if digest is not None:
                stones.append(
                    Tombstone(
                        tombstone_id=digest, tenant_id=tenant_id, pseudonym=pseudonym, erased_at=erased_at
                    )
                )
        await self.stones.put(*stones)

    def _find(self, kind: str, text: str) -> Tombstone | None:
        digest = self._digest(kind, text)
        return None if digest is None else self.stones.get(digest)

    def _digest(self, kind: str, text: str) -> str | None:
        """None: nobody was ever erased."""
        record = self.keys.get(_KEY_ID)
        if record is None:
            return None
        said = f"{kind}:{text}".encode("utf-8", "surrogatepass")
        return hmac.digest(bytes.fromhex(record.key), said, hashlib.sha256).hex()
