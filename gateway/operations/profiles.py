"""The administrative operations on what accounts say of their person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import UnsetType

from gateway.clock import rfc3339
from gateway.identity.profiles import ProfileChange, Profiles
from gateway.operations.administration import Administration, Answer, Operation, OperationError
from gateway.operations.parameters import ChangeProfile, OneClient
from persistence.records import ClientRecord


async def _change(admin: Administration, wanted: ChangeProfile, actor: str) -> Answer:
    client = admin.changeable_client(wanted.client_id)
    profiles, change = Profiles(admin.stores, now=admin.now), wanted.change
    check_change(client, change)
    if change.said:
        entry = admin.entry(
            actor,
            "clients.profile",
            client_id=client.client_id,
            tenant_id=client.tenant_id,
            target=f"{client.client_id}: {change.said}",
        )
        await admin.stores.audit.append(entry)
        client = await profiles.change(client, change)
    return {"profile": {"client_id": client.client_id, "email": client.email, **profiles.shown(client)}}


def check_change(client: ClientRecord, change: ProfileChange) -> None:
    """Raises OperationError where the client's profile cannot be changed that way."""
    email = client.email if isinstance(change.email, UnsetType) else change.email
    if change.email_verified is True and email is None:
        raise OperationError(f"the client {client.client_id} has no e-mail address to be verified; give one")


async def _new_code(admin: Administration, wanted: OneClient, actor: str) -> Answer:
    """A code that proves the client's address; whoever asks for it sends it there."""
    client = admin.changeable_client(wanted.client_id)
    if client.email is None:
        raise OperationError(
            f"the client {client.client_id} has no e-mail address; `ostiary clients profile` gives it one"
        )
    entry = admin.entry(
        actor,
        "clients.email_code",
        client_id=client.client_id,
        tenant_id=client.tenant_id,
        target=client.client_id,
    )
    await admin.stores.audit.append(entry)
    code, exp = await Profiles(admin.stores, now=admin.now).new_code(client)
    return {
        "client_id": client.client_id,
        "email": client.email,
        "code": code,
        "expires_at": rfc3339(exp),
    }


PROFILE_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "clients.profile": Operation(ChangeProfile, _change),
    "clients.email_code": Operation(OneClient, _new_code),
}
