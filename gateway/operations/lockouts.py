"""The administrative operations on lock-outs. One of an address, or of a name that nobody has, belongs to no tenant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.identity.lockouts import Lockouts
from gateway.operations.administration import Administration, Answer, Operation, OperationError, UnknownError
from gateway.operations.pages import page_of
from gateway.operations.parameters import MAX_PAGE, OneClient, Parameters, check_limit
from persistence.account_records import LockoutRecord
from persistence.records import DEFAULT_TENANT


class ListLockouts(Parameters, frozen=True, kw_only=True):
    """A page of the lock-outs of one client, or of all, from the one after ``cursor``."""

    client_id: str | None = None
    limit: int = MAX_PAGE
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)


class OneLockout(Parameters, frozen=True, kw_only=True):
    """A lock-out, by its id."""

    lockout_id: str


async def _list(admin: Administration, wanted: ListLockouts, _actor: str) -> Answer:
    page, cursor = await page_of(
        lockouts_of(admin).all(),
        lambda each: each.lockout_id,
        wanted=lambda each: wanted.client_id in {None, each.client_id} and admin.sees(each.tenant_id),
        after=wanted.cursor,
        limit=wanted.limit,
    )
    return {"lockouts": [msgspec.to_builtins(each) for each in page], "next_cursor": cursor}


async def _show(admin: Administration, wanted: OneLockout, _actor: str) -> Answer:
    return {"lockout": msgspec.to_builtins(_known(admin, wanted.lockout_id))}


async def _end(admin: Administration, wanted: OneLockout, actor: str) -> Answer:
    lockout = _known(admin, wanted.lockout_id)
    if lockout.client_id is not None:
        admin.changeable_client(lockout.client_id)
    entry = admin.entry(
        actor,
        "lockouts.end",
        client_id=lockout.client_id,
        tenant_id=lockout.tenant_id or DEFAULT_TENANT,
        target=lockout.client_id or lockout.origin or lockout.lockout_id,
    )
    await admin.stores.audit.append(entry)
    await lockouts_of(admin).end(lockout.lockout_id)
    return {"lockout_id": lockout.lockout_id}


async def _unlock(admin: Administration, wanted: OneClient, actor: str) -> Answer:
    """All lock-outs of a client."""
    client = admin.changeable_client(wanted.client_id)
    lockouts = lockouts_of(admin)
    if not lockouts.counts(client.client_id):
        return {"client_id": client.client_id, "unlocked": False}
    entry = admin.entry(
        actor,
        "clients.unlock",
        client_id=client.client_id,
        tenant_id=client.tenant_id,
        target=client.client_id,
    )
    await admin.stores.audit.append(entry)
    return {"client_id": client.client_id, "unlocked": await lockouts.unlock(client.client_id)}


def lockouts_of(admin: Administration) -> Lockouts:
    """Raises OperationError where they are not at hand."""
    if admin.lockouts is None:
        raise OperationError("lock-outs are not at hand here; ask the running server")
    return admin.lockouts


def _known(admin: Administration, lockout_id: str) -> LockoutRecord:
    """A lock-out that is there for whoever asks, and not over. Raises UnknownError."""
    lockout = lockouts_of(admin).get(lockout_id)
    if lockout is None or not admin.sees(lockout.tenant_id):
        raise UnknownError("there is no such lock-out, or it is over; `ostiary lockouts list` shows all")
    return lockout


LOCKOUT_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "lockouts.list": Operation(ListLockouts, _list, changes=False),
    "lockouts.show": Operation(OneLockout, _show, changes=False),
    "lockouts.end": Operation(OneLockout, _end),
    "clients.unlock": Operation(OneClient, _unlock),
}
