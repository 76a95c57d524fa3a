"""The administrative operations on roles that are made while running.

The roles of the configuration are the floor: nothing here changes or hides one. A role is a tenant's, or of every
tenant; only the platform's administrators make the latter, and only the latter may grant something of the platform.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.config.shapes import did_you_mean
from gateway.identity.roles import ANY, role_id
from gateway.model import PLATFORM
from gateway.operations.administration import (
    MAX_TARGET,
    Administration,
    Answer,
    ForbiddenError,
    Operation,
    OperationError,
    UnknownError,
    counted,
)
from gateway.operations.parameters import MAX_PAGE, Parameters, check_limit, check_permissions, check_roles
from persistence.records import DEFAULT_TENANT, INVITATIONS, AuditEntry, RoleRecord

PLATFORM_ROLES: Final = "platform:roles"


class SetRole(Parameters, frozen=True, kw_only=True):
    """``tenant_id`` None: of every tenant. ``permissions`` are all that it grants then."""

    role: str
    tenant_id: str | None = None
    permissions: tuple[str, ...]

    def __post_init__(self) -> None:
        check_roles((self.role,))
        check_permissions(self.permissions)


class OneRole(Parameters, frozen=True, kw_only=True):
    """A role by its name. ``tenant_id`` None: of every tenant, or of the configuration."""

    role: str
    tenant_id: str | None = None


class ListRoles(Parameters, frozen=True, kw_only=True):
    """A page of roles, from the one after ``cursor``."""

    limit: int = MAX_PAGE
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)


async def _add(admin: Administration, wanted: SetRole, actor: str) -> Answer:
    _check_place(admin, wanted)
    book = admin.role_book
    if book.made is None or wanted.role in _names_beside(admin, wanted):
        raise OperationError(f"there is a role {wanted.role} already; `ostiary roles show` shows it")
    moment = admin.timestamp()
    record = RoleRecord(
        role_id=role_id(wanted.tenant_id, wanted.role),
        tenant_id=wanted.tenant_id,
        role=wanted.role,
        permissions=tuple(dict.fromkeys(wanted.permissions)),
        created_at=moment,
        updated_at=moment,
    )
    return await _put(admin, record, "roles.add", actor)


async def _set(admin: Administration, wanted: SetRole, actor: str) -> Answer:
    _check_place(admin, wanted)
    record = _changeable(admin, wanted.role, wanted.tenant_id)
    permissions = tuple(dict.fromkeys(wanted.permissions))
    if permissions == record.permissions:
        return {"role": _made(record)}
    changed = msgspec.structs.replace(record, permissions=permissions, updated_at=admin.timestamp())
    return await _put(admin, changed, "roles.set", actor)


async def _remove(admin: Administration, wanted: OneRole, actor: str) -> Answer:
    record = _changeable(admin, wanted.role, wanted.tenant_id)
    holders = [
        client.client_id
        for client in admin.stores.clients
        if record.role in client.roles and record.tenant_id in {None, client.tenant_id}
    ]
    if holders:
        few = ", ".join(holders[:5])
        raise OperationError(
            f"{counted(len(holders), 'client')} with the role {record.role} ({few}); take it from them first: "
            f"ostiary clients roles {holders[0]} --remove-role {record.role}"
        )
    invited = sum(
        record.role in each.roles
        and record.tenant_id in {None, each.tenant_id}
        and each.used_at is None
        and each.exp > admin.now()
        for each in admin.stores.collection(INVITATIONS)
    )
    if invited:
        raise OperationError(
            f"{counted(invited, 'open invitation')} to the role {record.role}; `ostiary invitations revoke` ends them"
        )
    if any(record.role in rule.roles for rule in admin.identity_rules()):
        raise OperationError(
            f"a rule of [[tls.client_id]] gives the role {record.role}; take it out there first, and ostiary reload"
        )
    await admin.stores.audit.append(_entry(admin, actor, record, "roles.remove"))
    made = admin.role_book.made
    if made is not None:
        await made.remove(record.role_id)
    admin.on_roles_changed()
    return {"role_id": record.role_id}


async def _list(admin: Administration, wanted: ListRoles, _actor: str) -> Answer:
    after = wanted.cursor or ""
    seen = [role for role in _all(admin) if role["role_id"] > after]
    page, more = seen[: wanted.limit], len(seen) > wanted.limit
    return {"roles": page, "next_cursor": page[-1]["role_id"] if more else None}


async def _show(admin: Administration, wanted: OneRole, _actor: str) -> Answer:
    configured = admin.role_book.configured.get(wanted.role)
    if configured is not None:
        return {"role": _configured(wanted.role, configured)}
    return {"role": _made(_known(admin, wanted.role, wanted.tenant_id))}


def _all(admin: Administration) -> list[Answer]:
    """Every role that is there for whoever asks, by role_id."""
    book = admin.role_book
    made = [_made(role) for role in book.made or () if role.tenant_id is None or admin.sees(role.tenant_id)]
    configured = [_configured(name, permissions) for name, permissions in book.configured.items()]
    return sorted([*configured, *made], key=lambda role: str(role["role_id"]))


def _names_beside(admin: Administration, wanted: SetRole) -> set[str]:
    """The roles that a new one would hide, or be hidden by."""
    made = admin.role_book.made or ()
    return {
        each.role for each in made if wanted.tenant_id is None or each.tenant_id in {None, wanted.tenant_id}
    }


def _check_place(admin: Administration, wanted: SetRole) -> None:
    """Whoever asks may put a role there, and hand out what it grants. Raises OperationError."""
    _check_configured(admin, wanted.role)
    _check_tenant(admin, wanted.tenant_id)
    ours = [p for p in wanted.permissions if p.partition(":")[0] == PLATFORM]
    if wanted.tenant_id is not None and ours:
        raise OperationError(
            f"a tenant's role grants nothing of the platform; leave out {', '.join(ours)[:200]}"
        )
    admin.require_grants(wanted.permissions, f"the role {wanted.role}")


def _check_configured(admin: Administration, role: str) -> None:
    if role in admin.role_book.configured:
        raise OperationError(
            f"the role {role} is one of [roles] in the configuration, which cannot be changed while running: "
            "change it there, and start anew; or add a role of another name"
        )


def _check_tenant(admin: Administration, tenant_id: str | None) -> None:
    """Roles of every tenant are the platform's. Raises OperationError."""
    if tenant_id is not None:
        admin.tenant(tenant_id)
        return
    caller = admin.caller
    if caller is not None and (
        caller.tenant_id is not None or not caller.context.permissions.cover((PLATFORM_ROLES,))
    ):
        raise ForbiddenError(
            "roles of every tenant are made by administrators of the platform", (PLATFORM_ROLES,)
        )


def _known(admin: Administration, role: str, tenant_id: str | None) -> RoleRecord:
    """Raises UnknownError."""
    made = admin.role_book.made
    record = None if made is None else made.get(role_id(tenant_id, role))
    if record is not None and (record.tenant_id is None or admin.sees(record.tenant_id)):
        return record
    visible = _all(admin)
    elsewhere = [_place(each["tenant_id"]) for each in visible if each["role"] == role]
    remedy = did_you_mean(role, [str(each["role"]) for each in visible])
    if elsewhere:
        remedy = f"there is one of {', '.join(elsewhere[:5])}"
    raise UnknownError(f"there is no role {role[:80]!a} of {_place(tenant_id)}; {remedy}")


def _place(tenant_id: str | None) -> str:
    return "every tenant" if tenant_id is None else f"the tenant {tenant_id[:80]}"


def _changeable(admin: Administration, role: str, tenant_id: str | None) -> RoleRecord:
    """Raises OperationError."""
    _check_configured(admin, role)
    record = _known(admin, role, tenant_id)
    _check_tenant(admin, tenant_id)
    admin.require_grants(record.permissions, f"the role {role}")
    return record


async def _put(admin: Administration, record: RoleRecord, operation: str, actor: str) -> Answer:
    await admin.stores.audit.append(_entry(admin, actor, record, operation))
    made = admin.role_book.made
    if made is not None:
        await made.put(record)
    admin.on_roles_changed()
    return {"role": _made(record)}


def _entry(admin: Administration, actor: str, record: RoleRecord, operation: str) -> AuditEntry:
    target = f"{record.role_id}: {' '.join(record.permissions)}"[:MAX_TARGET]
    return admin.entry(actor, operation, tenant_id=record.tenant_id or DEFAULT_TENANT, target=target)


def _made(record: RoleRecord) -> Answer:
    answer: Answer = msgspec.to_builtins(record)
    return {**answer, "source": "store"}


def _configured(role: str, permissions: tuple[str, ...]) -> Answer:
    return {
        "role_id": f"{ANY}/{role}",
        "tenant_id": None,
        "role": role,
        "permissions": list(permissions),
        "created_at": None,
        "updated_at": None,
        "source": "configuration",
    }


ROLE_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "roles.add": Operation(SetRole, _add),
    "roles.set": Operation(SetRole, _set),
    "roles.show": Operation(OneRole, _show, changes=False),
    "roles.list": Operation(ListRoles, _list, changes=False),
    "roles.remove": Operation(OneRole, _remove),
}
