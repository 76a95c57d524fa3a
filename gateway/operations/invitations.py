"""The administrative operations on invitations."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.clock import rfc3339
from gateway.config.shapes import NAME
from gateway.identity.registration import code_digest
from gateway.operations.administration import Administration, Answer, Operation, OperationError, UnknownError
from gateway.operations.parameters import MAX_PAGE, Parameters, check_limit, check_roles
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
    """A page of them, used ones too, from the one after ``cursor``."""

    limit: int = MAX_PAGE
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)


class OneInvitation(Parameters, frozen=True, kw_only=True):
    """One of them."""

    invitation_id: str


async def _add(admin: Administration, wanted: AddInvitation, actor: str) -> Answer:
    admin.tenant(wanted.tenant_id)
    for role in wanted.roles:
        if admin.role_book.grants(wanted.tenant_id, role) is None:
            raise OperationError(f"there is no role {role[:80]!a}; `ostiary roles list` shows all")
    _require_roles(admin, wanted.tenant_id, wanted.roles)
    _check_name(admin, wanted)
    code = secrets.token_urlsafe(18)
    now = admin.now()
    record = InvitationRecord(
        invitation_id=secrets.token_hex(6),
        code_hash=code_digest(code),
        tenant_id=wanted.tenant_id,
        roles=wanted.roles,
        created_at=rfc3339(now),
        created_by=actor if admin.caller is None else admin.caller.context.client_id or "",
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


def _require_roles(admin: Administration, tenant_id: str, roles: Iterable[str]) -> None:
    """Whoever asks holds what these grant. Raises ForbiddenError."""
    for role in roles:
        admin.require_grants(admin.role_book.grants(tenant_id, role) or (), f"the role {role}")


async def _list(admin: Administration, wanted: ListInvitations, _actor: str) -> Answer:
    after = wanted.cursor or ""
    found = admin.stores.collection(INVITATIONS)
    seen = sorted(
        (each for each in found if each.invitation_id > after and admin.sees(each.tenant_id)),
        key=lambda each: each.invitation_id,
    )
    page, more = seen[: wanted.limit], len(seen) > wanted.limit
    return {
        "invitations": [_shown(each) for each in page],
        "next_cursor": page[-1].invitation_id if more else None,
    }


async def _show(admin: Administration, wanted: OneInvitation, _actor: str) -> Answer:
    return {"invitation": _shown(_known(admin, wanted.invitation_id))}


def _known(admin: Administration, invitation_id: str) -> InvitationRecord:
    """One that is there for whoever asks. Raises UnknownError."""
    record = admin.stores.collection(INVITATIONS).get(invitation_id)
    if record is None or not admin.sees(record.tenant_id):
        raise UnknownError("there is no such invitation; `ostiary invitations list` shows all")
    return record


async def _revoke(admin: Administration, wanted: OneInvitation, actor: str) -> Answer:
    record = _known(admin, wanted.invitation_id)
    _require_roles(admin, record.tenant_id, record.roles)
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
    "invitations.show": Operation(OneInvitation, _show, changes=False),
    "invitations.revoke": Operation(OneInvitation, _revoke),
}
