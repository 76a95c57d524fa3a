"""What is held of a client, and the end of it.

Erasing goes this way, so that a crash anywhere leaves it shut out, and the same command brings it to its end:

1. The client is disabled, and its tokens are revoked: from here on nothing of it is let in.
2. Tombstones keep its name and its certificate id from being anybody's.
3. Its records go, in every collection; its tokens stay until they expire, under no name.
4. The audit is erased from, which ends with a checkpoint: no file of the store, and no later backup, has the name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.identity.tombstones import CERTIFICATE, NAME
from gateway.operations.administration import Administration, Answer, Operation, ParameterError
from gateway.operations.parameters import OneClient, Parameters
from persistence.protocols import Collection
from persistence.records import INVITATIONS, KINDS, AuditQuery, ClientRecord, Kind, TokenRecord

ERASED: Final = "erased"
"""Whose tokens and entries it are, while the audit's number of the erasure is not known."""
CLIENT_ID: Final = "client_id"
_PAGE: Final = 1000
_SECRET: Final = frozenset(
    {
        "password_hash",
        "key_hash",
        "code_hash",
        "token_hash",
        "password_digest",
        "sealed_secret",
        "recovery_hashes",
        "hashes",
    }
)
"""What of a record is never shown: it is there, and that is all."""


class ExportClient(Parameters, frozen=True, kw_only=True):
    """``cursor``: go on with the audit from there."""

    client_id: str
    cursor: str | None = None


async def _erase(admin: Administration, wanted: OneClient, actor: str) -> Answer:
    """The client goes in a turn; looking through the audit, which may take minutes, keeps nobody's change waiting."""
    async with admin.changing():
        tenant_id, revoked = await _remove(admin, wanted.client_id, actor)
    return await _finish(admin, tenant_id, wanted.client_id, actor, revoked)


async def _remove(admin: Administration, client_id: str, actor: str) -> tuple[str, int]:
    """Take it out of the store, where it still is; its tenant, and how many of its tokens were live."""
    tombstone = admin.tombstones.of_name(client_id)
    if (
        tombstone is not None
        and admin.sees(tombstone.tenant_id)
        and admin.stores.clients.get(client_id) is None
    ):
        return tombstone.tenant_id, 0
    client = admin.changeable_client(client_id)
    admin.require_not_shut_out(client_id=client.client_id)
    moment = admin.timestamp()
    entry = admin.entry(
        actor,
        "clients.erase",
        client_id=client.client_id,
        tenant_id=client.tenant_id,
        target=client.client_id,
    )
    await admin.stores.audit.append(entry)
    await admin.stores.clients.put(
        msgspec.structs.replace(client, disabled_at=moment, updated_at=moment, password_hash=None)
    )
    # Until its id was changed, its certificates may have named it by its name.
    ids = {client.client_id, client.certificate or client.client_id}
    holders = {each: admin.stores.clients.by_certificate(each) for each in sorted(ids)}
    own = [each for each, holder in holders.items() if holder is None or holder.client_id == client.client_id]
    names = [(NAME, client.client_id), *((CERTIFICATE, each) for each in own)]
    await admin.tombstones.bury(
        names, tenant_id=client.tenant_id, pseudonym=ERASED, erased_at=moment, random=os.urandom
    )
    revoked = await _forget_tokens(admin, client.client_id, moment)
    for kind in KINDS:
        keys = [getattr(record, kind.key) for record in records_of(admin, kind, client.client_id)]
        await admin.stores.collection(kind).remove(*keys)
    invitations = admin.stores.collection(INVITATIONS)
    made = [each for each in invitations if each.created_by == client.client_id]
    await invitations.put(*(msgspec.structs.replace(each, created_by=ERASED) for each in made))
    await admin.stores.clients.remove(client.client_id)
    if admin.lockouts is not None:
        await admin.lockouts.unlock(client.client_id)
    revoked += await _forget_tokens(admin, client.client_id, moment)
    return client.tenant_id, revoked


async def _finish(admin: Administration, tenant_id: str, client_id: str, actor: str, revoked: int) -> Answer:
    """The audit, last: it ends with a checkpoint."""
    entry = msgspec.structs.replace(
        admin.entry(actor, "clients.erase", tenant_id=tenant_id, target=ERASED, event="erased"),
        client_id=None,
    )
    values = await admin.stores.audit.erase(entry, client_id)
    return {"erased": True, "tenant_id": tenant_id, "revoked": revoked, "audit_values": values}


async def _forget_tokens(admin: Administration, client_id: str, moment: str) -> int:
    """Revoke them, and take the name off them; how many were live."""
    tokens = list(admin.stores.tokens.of_client(client_id))
    await admin.stores.tokens.put(*(_nobodys(token, moment) for token in tokens))
    return sum(token.revoked_at is None for token in tokens)


def _nobodys(token: TokenRecord, moment: str) -> TokenRecord:
    return msgspec.structs.replace(
        token,
        client_id=ERASED,
        revoked_at=token.revoked_at or moment,
        certificate_thumbprint=None,
    )


async def _export(admin: Administration, wanted: ExportClient, actor: str) -> Answer:
    client = admin.changeable_client(wanted.client_id)
    if wanted.cursor is not None:
        return await _entries(admin, client, wanted.cursor)
    entry = admin.entry(
        actor,
        "clients.export",
        client_id=client.client_id,
        tenant_id=client.tenant_id,
        target=client.client_id,
    )
    await admin.stores.audit.append(entry)
    held = {
        kind.name: [
            _shown(record)
            for record in records_of(admin, kind, client.client_id)
            if getattr(record, "tenant_id", client.tenant_id) == client.tenant_id
        ]
        for kind in KINDS
    }
    return {
        "exported_at": admin.timestamp(),
        "client": _shown(client),
        "tokens": [
            _shown(token)
            for token in admin.stores.tokens.of_client(client.client_id)
            if token.tenant_id == client.tenant_id
        ],
        **{name: records for name, records in held.items() if records},
        **await _entries(admin, client, None),
    }


def records_of(admin: Administration, kind: Kind[Any], client_id: str) -> list[msgspec.Struct]:
    """The client's records of that kind."""
    collection: Collection[Any] = admin.stores.collection(kind)
    if kind.key == CLIENT_ID:
        record = collection.get(client_id)
        return [] if record is None else [record]
    if CLIENT_ID in kind.indexes:
        return list(collection.where(CLIENT_ID, client_id))
    if CLIENT_ID in kind.record.__struct_fields__:
        return [record for record in collection if record.client_id == client_id]
    return []


def _shown(record: msgspec.Struct) -> Answer:
    """A record without its secrets: of these, whether they are there."""
    fields: Answer = msgspec.to_builtins(record)
    for name in fields.keys() & _SECRET:
        fields[name] = "[set]" if fields[name] else None
    return fields


async def _entries(admin: Administration, client: ClientRecord, cursor: str | None) -> Answer:
    """A page of what the audit has of the client, newest first: where it acted, or was acted upon."""
    wanted = AuditQuery(about=client.client_id, limit=_PAGE, cursor=cursor)
    try:
        page = await admin.stores.audit.query(wanted)
    except ValueError:
        raise ParameterError("the cursor is not one of this audit; leave it out to begin anew") from None
    return {"audit": [msgspec.to_builtins(each) for each in page.entries], "next_cursor": page.next_cursor}


ERASURE_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "clients.export": Operation(ExportClient, _export, changes=False),
    "clients.erase": Operation(OneClient, _erase, own_turn=True),
}
