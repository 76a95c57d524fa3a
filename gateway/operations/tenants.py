"""The administrative operations on tenants. They change what more than one tenant sees: ``platform:tenants`` is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.config.shapes import NAME
from gateway.identity.tombstones import TENANT
from gateway.operations.administration import (
    Administration,
    Answer,
    ForbiddenError,
    Operation,
    OperationError,
    counted,
)
from gateway.operations.parameters import MAX_PAGE, Parameters, check_limit
from persistence.records import DEFAULT_TENANT, INVITATIONS, AuditEntry, TenantRecord, TenantSettings

PLATFORM_TENANTS: Final = "platform:tenants"
MAX_NAME: Final = 200
_NOT_A_TENANT: Final = 'a tenant\'s name has 1 to 64 lower-case letters, digits, "_" and "-"'


class AddTenant(Parameters, frozen=True, kw_only=True):
    """``name``: what people call it; None: the tenant_id."""

    tenant_id: str
    name: str | None = None
    mfa_required: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.tenant_id):
            raise ValueError(_NOT_A_TENANT)
        _check_display_name(self.name)


class ChangeTenant(Parameters, frozen=True, kw_only=True):
    """What is None stays. Each change is an entry of its own."""

    tenant_id: str
    name: str | None = None
    mfa_required: bool | None = None
    disabled: bool | None = None

    def __post_init__(self) -> None:
        _check_display_name(self.name)


class OneTenant(Parameters, frozen=True, kw_only=True):
    """The operations that need nothing but the tenant."""

    tenant_id: str


class ListTenants(Parameters, frozen=True, kw_only=True):
    """A page of tenants, from the one after ``cursor``."""

    limit: int = MAX_PAGE
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)


def _check_display_name(name: str | None) -> None:
    if name is not None and not (1 <= len(name) <= MAX_NAME and name.isprintable()):
        raise ValueError(f"what a tenant is called has 1 to {MAX_NAME} printable characters")


async def _add(admin: Administration, wanted: AddTenant, actor: str) -> Answer:
    _require_platform(admin)
    if admin.tenants.get(wanted.tenant_id) is not None:
        raise OperationError(f"there is a tenant {wanted.tenant_id}; `ostiary tenants show` shows it")
    if admin.tombstones.of_tenant(wanted.tenant_id) is not None:
        raise OperationError(
            f"there was a tenant {wanted.tenant_id}, and the audit has its entries; choose another name"
        )
    moment = admin.timestamp()
    record = TenantRecord(
        tenant_id=wanted.tenant_id,
        name=wanted.name or wanted.tenant_id,
        settings=TenantSettings(mfa_required=wanted.mfa_required),
        created_at=moment,
        updated_at=moment,
    )
    said = "mfa_required=true" if wanted.mfa_required else ""
    await admin.stores.audit.append(_entry(admin, actor, record, "tenants.add", said))
    await admin.tenants.records.put(record)
    return {"tenant": _tenant(record)}


async def _list(admin: Administration, wanted: ListTenants, _actor: str) -> Answer:
    after = wanted.cursor or ""
    seen = [each for each in admin.tenants if each.tenant_id > after and admin.sees(each.tenant_id)]
    page, more = seen[: wanted.limit], len(seen) > wanted.limit
    return {
        "tenants": [_tenant(record) for record in page],
        "next_cursor": page[-1].tenant_id if more else None,
    }


async def _show(admin: Administration, wanted: OneTenant, _actor: str) -> Answer:
    return {"tenant": _tenant(admin.tenant(wanted.tenant_id))}


async def _set(admin: Administration, wanted: ChangeTenant, actor: str) -> Answer:
    record = admin.tenant(wanted.tenant_id)
    _require_platform(admin)
    mfa_required = record.settings.mfa_required if wanted.mfa_required is None else wanted.mfa_required
    disabled_at = record.disabled_at
    if wanted.disabled is not None and wanted.disabled != (disabled_at is not None):
        admin.require_not_shut_out(tenant_id=record.tenant_id)
        disabled_at = admin.timestamp() if wanted.disabled else None
    changed = msgspec.structs.replace(
        record,
        name=wanted.name or record.name,
        settings=msgspec.structs.replace(record.settings, mfa_required=mfa_required),
        disabled_at=disabled_at,
    )
    if changed == record:
        return {"tenant": _tenant(record)}
    for operation, said in _differences(record, changed):
        await admin.stores.audit.append(_entry(admin, actor, record, operation, said))
    changed = msgspec.structs.replace(changed, updated_at=admin.timestamp())
    await admin.tenants.records.put(changed)
    return {"tenant": _tenant(changed)}


def _differences(record: TenantRecord, changed: TenantRecord) -> list[tuple[str, str]]:
    """What is otherwise: each as an operation, and what the entry says of it."""
    found = []
    if changed.name != record.name:
        found.append(("tenants.set", f"name={changed.name}"))
    if changed.settings.mfa_required != record.settings.mfa_required:
        found.append(("tenants.set", f"mfa_required={str(changed.settings.mfa_required).lower()}"))
    if changed.disabled_at != record.disabled_at:
        found.append(("tenants.enable" if changed.disabled_at is None else "tenants.disable", ""))
    return found


async def _remove(admin: Administration, wanted: OneTenant, actor: str) -> Answer:
    """Only an empty one goes, and its name is not given again: the audit has entries of it."""
    record = admin.tenant(wanted.tenant_id)
    _require_platform(admin)
    if record.tenant_id == DEFAULT_TENANT:
        raise OperationError(
            "the tenant default is always there; `ostiary tenants disable` shuts its clients out"
        )
    clients = sum(client.tenant_id == record.tenant_id for client in admin.stores.clients)
    roles = [each for each in admin.role_book.made or () if each.tenant_id == record.tenant_id]
    if clients or roles:
        raise OperationError(
            f"the tenant {record.tenant_id} still has {counted(clients, 'client')} and {counted(len(roles), 'role')}; erase "
            "and remove them first"
        )
    invited = sum(
        each.tenant_id == record.tenant_id and each.used_at is None and each.exp > admin.now()
        for each in admin.stores.collection(INVITATIONS)
    )
    if invited:
        raise OperationError(
            f"the tenant {record.tenant_id} still has {counted(invited, 'open invitation')}; `ostiary invitations revoke` "
            "ends them"
        )
    await admin.stores.audit.append(_entry(admin, actor, record, "tenants.remove"))
    await admin.tombstones.bury(
        [(TENANT, record.tenant_id)],
        tenant_id=record.tenant_id,
        pseudonym=record.tenant_id,
        erased_at=admin.timestamp(),
        random=os.urandom,
    )
    await admin.tenants.records.remove(record.tenant_id)
    return {"tenant_id": record.tenant_id}


def _require_platform(admin: Administration) -> None:
    caller = admin.caller
    if caller is not None and not caller.context.permissions.cover((PLATFORM_TENANTS,)):
        raise ForbiddenError("tenants are changed by administrators of the platform", (PLATFORM_TENANTS,))


def _entry(
    admin: Administration, actor: str, record: TenantRecord, operation: str, said: str = ""
) -> AuditEntry:
    target = f"{record.tenant_id}: {said}" if said else record.tenant_id
    return admin.entry(actor, operation, tenant_id=record.tenant_id, target=target)


def _tenant(record: TenantRecord) -> Answer:
    answer: Answer = msgspec.to_builtins(record)
    answer["disabled"] = record.disabled_at is not None
    return answer


TENANT_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "tenants.add": Operation(AddTenant, _add),
    "tenants.list": Operation(ListTenants, _list, changes=False),
    "tenants.show": Operation(OneTenant, _show, changes=False),
    "tenants.set": Operation(ChangeTenant, _set),
    "tenants.remove": Operation(OneTenant, _remove),
}
