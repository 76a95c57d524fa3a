"""The administrative operations on invitations."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from gateway.clock import rfc3339
from gateway.config.shapes import NAME
from gateway.identity.registration import code_digest
from gateway.operations.administration import Administration, Answer, Operation, OperationError, UnknownError
from gateway.operations.parameters import Parameters, check_roles
from persistence.account_records import InvitationRecord
from persistence.records import DEFAULT_TENANT, INVITATIONS

_MAX_NAME: Final = 128


class AddInvitation(Parameters, frozen=True, kw_only=True):
    """``days``: how long it is good. ``name``: what it is for; no two of a tenant have the same."""

    roles: tuple[str, ...] = ()
    tenant_id: str = DEFAULT_TENANT
    days: int = 7
    name: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.days <= 365:
            raise ValueError("an invitation is good for 1 to 365 days")
        if not NAME.fullmatch(self.tenant_id):
            raise ValueError('a tenant\'s name has 1 to 64 lower-case letters, digits, "_" and "-"')
        if self.name is not None and not 1 <= len(self.name) <= _MAX_NAME:
            raise ValueError(f"an invitation's name has 1 to {_MAX_NAME} characters")
        check_roles(self.roles)


class ListInvitations(Parameters, frozen=True, kw_only=True):
    """All of them."""


class OneInvitation(Parameters, frozen=True, kw_only=True):
    """One of them."""

    invitation_id: str


async def _add(admin: Administration, wanted: AddInvitation, actor: str) -> Answer:
    admin.tenant(wanted.tenant_id)
    for role in wanted.roles:
        grants = admin.role_book.grants(wanted.tenant_id, role)
        if grants is None:
            raise OperationError(f"there is no role {role[:80]!a}; `ostiary roles list` shows all")
        admin.require_grants(grants, f"the role {role}")
    _check_name(admin, wanted)
    code = secrets.token_urlsafe(18)
    now = admin.now()
    record = InvitationRecord(
        invitation_id=secrets.token_hex(6),
        code_hash=code_digest(code),
        tenant_id=wanted.tenant_id,
        roles=wanted.roles,
        created_at=rfc3339(now),
        created_by=actor,
        exp=int(now) + wanted.days * 86400,
        name=wanted.name,
    )
    roles = " ".join(record.roles) or "none"
    target = f"{record.invitation_id}: {roles}; until {rfc3339(record.exp)}"
    await admin.stores.audit.append(
        admin.entry(actor, "invitations.add", tenant_id=wanted.tenant_id, target=target)
    )
    await admin.stores.collection(INVITATIONS).put(record)
    return {"invitation": _shown(record), "code": code}


async def _list(admin: Administration, _wanted: ListInvitations, _actor: str) -> Answer:
    found = admin.stores.collection(INVITATIONS)
    return {"invitations": [_shown(each) for each in found if admin.sees(each.tenant_id)]}


async def _revoke(admin: Administration, wanted: OneInvitation, actor: str) -> Answer:
    record = admin.stores.collection(INVITATIONS).get(wanted.invitation_id)
    if record is None or not admin.sees(record.tenant_id):
        raise UnknownError("there is no such invitation; `ostiary invitations list` shows all")
    await admin.stores.audit.append(
        admin.entry(actor, "invitations.revoke", tenant_id=record.tenant_id, target=record.invitation_id)
    )
    await admin.stores.collection(INVITATIONS).remove(record.invitation_id)
    return {"invitation": _shown(record)}


def _check_name(admin: Administration, wanted: AddInvitation) -> None:
    """Raises OperationError where the tenant has an invitation of that name, used or not."""
    if wanted.name is None:
        return
    for each in admin.stores.collection(INVITATIONS):
        if (each.tenant_id, each.name) == (wanted.tenant_id, wanted.name):
            raise OperationError(
                f"there is an invitation of that name; `ostiary invitations revoke {each.invitation_id}` takes it away"
            )


def _shown(record: InvitationRecord) -> Answer:
    return {
        "invitation_id": record.invitation_id,
        "name": record.name,
        "tenant_id": record.tenant_id,
        "roles": list(record.roles),
        "created_at": record.created_at,
        "created_by": record.created_by,
        "expires_at": rfc3339(record.exp),
        "used_at": record.used_at,
        "client_id": record.client_id,
    }


INVITATION_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "invitations.add": Operation(AddInvitation, _add),
    "invitations.list": Operation(ListInvitations, _list, changes=False),
    "invitations.revoke": Operation(OneInvitation, _revoke),
}
