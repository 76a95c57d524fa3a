"""The tenants, and the clients as their tenants and tombstones let them be known.

Everything that lets somebody in asks ``KnownClients``: a client of a tenant that is disabled, or that nobody added, is
disabled; one that was erased is still known as such, by its name and by its certificates, though neither is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.identity.tombstones import Tombstones
from persistence.protocols import ClientStore, Collection, Stores
from persistence.records import DEFAULT_TENANT, TENANTS, ClientRecord, TenantRecord, TenantSettings, Tombstone

_NEVER: Final = "1970-01-01T00:00:00.000Z"
_IMPLIED: Final = TenantRecord(tenant_id=DEFAULT_TENANT, name="Default", created_at=_NEVER, updated_at=_NEVER)
"""The default tenant, until somebody changes it."""
_UNKNOWN_SETTINGS: Final = TenantSettings(mfa_required=True)
"""Of a tenant that is not there: the strictest."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """All tenants; ``default`` is always one of them."""

    records: Collection[TenantRecord]

    def get(self, tenant_id: str) -> TenantRecord | None:
        """The tenant, enabled or not."""
        record = self.records.get(tenant_id)
        return _IMPLIED if record is None and tenant_id == DEFAULT_TENANT else record

    def is_enabled(self, tenant_id: str) -> bool:
        """Whether its clients may be let in."""
        record = self.get(tenant_id)
        return record is not None and record.disabled_at is None

    def settings(self, tenant_id: str) -> TenantSettings:
        """What it demands of its clients."""
        record = self.get(tenant_id)
        return _UNKNOWN_SETTINGS if record is None else record.settings

    def __iter__(self) -> Iterator[TenantRecord]:
        """All of them, by tenant_id."""
        known = {_IMPLIED.tenant_id: _IMPLIED} | {record.tenant_id: record for record in self.records}
        return iter(sorted(known.values(), key=lambda record: record.tenant_id))


@dataclass(frozen=True, slots=True)
class KnownClients:
    """``ClientStore`` for whoever lets clients in."""

    clients: ClientStore
    tenants: Tenants
    tombstones: Tombstones

    def get(self, client_id: str) -> ClientRecord | None:
        """The client of that name: disabled where its tenant is; an erased one under its pseudonym."""
        record = self.clients.get(client_id)
        if record is None:
            return _erased(self.tombstones.of_name(client_id))
        return record if self.tenants.is_enabled(record.tenant_id) else _disabled(record)

    def by_certificate(self, certificate_id: str) -> ClientRecord | None:
        """The client whose certificates yield ``certificate_id``, as ``get`` has it."""
        record = self.clients.by_certificate(certificate_id)
        if record is None:
            return _erased(self.tombstones.of_certificate(certificate_id))
        return record if self.tenants.is_enabled(record.tenant_id) else _disabled(record)

    def __iter__(self) -> Iterator[ClientRecord]:
        """Those that are kept, by client_id."""
        return iter(self.clients)

    async def put(self, record: ClientRecord) -> None:
        """As ``ClientStore.put``."""
        await self.clients.put(record)

    async def remove(self, client_id: str) -> None:
        """As ``ClientStore.remove``."""
        await self.clients.remove(client_id)


def known_clients(stores: Stores) -> KnownClients:
    """Those of ``stores``."""
    return KnownClients(stores.clients, Tenants(stores.collection(TENANTS)), Tombstones.of(stores))


def _disabled(record: ClientRecord) -> ClientRecord:
    return msgspec.structs.replace(record, disabled_at=record.disabled_at or _NEVER)


def _erased(tombstone: Tombstone | None) -> ClientRecord | None:
    if tombstone is None:
        return None
    return ClientRecord(
        client_id=tombstone.pseudonym,
        tenant_id=tombstone.tenant_id,
        username="",
        user_id="",
        created_at=tombstone.erased_at,
        updated_at=tombstone.erased_at,
        erased_at=tombstone.erased_at,
    )
