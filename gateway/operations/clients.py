"""The administrative operations on clients."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import UNSET

from gateway.config.shapes import did_you_mean
from gateway.identity.accounts import password_hashes, remember_password
from gateway.identity.clients import OverloadedError
from gateway.identity.profiles import Profiles
from gateway.identity.second_factors import enabled_factor
from gateway.operations.administration import (
    MAX_TARGET,
    Administration,
    Answer,
    Operation,
    OperationError,
    ParameterError,
)
from gateway.operations.parameters import (
    NO_CERTIFICATE,
    AddClient,
    ChangeClient,
    ChangeRoles,
    ListClients,
    OneClient,
    SetPassword,
)
from gateway.operations.profiles import check_change
from gateway.operations.tokens import revoke
from persistence.records import (
    AuditEntry,
    ClientRecord,
)


@dataclass(frozen=True, slots=True)
class _Hashed:
    """A password that takes the place of a client's, hashed before the change had its turn."""

    password: str
    instead_of: str | None
    """The client's hash, when that was looked at."""
    password_hash: str

    def __repr__(self) -> str:
        return "_Hashed(…)"

    async def still_for(self, admin: Administration, client: ClientRecord) -> str:
        """The hash; where the client got another password meanwhile, it must not be that one either. Raises OperationError."""
        if client.password_hash == self.instead_of:
            return self.password_hash
        earlier = password_hashes(admin.stores, client)
        return await _hash(admin, self.password, client.client_id, earlier)


async def _add_client(admin: Administration, wanted: AddClient, actor: str) -> Answer:
    _check_new(admin, wanted)
    password, name = wanted.password, wanted.client_id
    password_hash = None if password is None else await _hashed(admin, password, name)
    async with admin.changing():
        certificate = _check_new(admin, wanted)  # again: hashing takes a while
        record = _new_client(admin, wanted, certificate, password_hash)
        return await _change(admin, record, "clients.add", actor)


def _check_new(admin: Administration, wanted: AddClient) -> str | None:
    """What its certificates are to yield. Raises OperationError where there cannot be such a client."""
    admin.tenant(wanted.tenant_id)
    _check_name(admin, wanted.client_id)
    _check_roles(admin, wanted.tenant_id, wanted.roles)
    admin.require_grants(wanted.permissions, "the permissions of a client")
    certificate = None if wanted.certificate == NO_CERTIFICATE else wanted.certificate or wanted.client_id
    _check_certificate(admin, certificate)
    return certificate


def _new_client(
    admin: Administration, wanted: AddClient, certificate: str | None, password_hash: str | None
) -> ClientRecord:
    name, moment = wanted.client_id, admin.timestamp()
    return ClientRecord(
        client_id=name,
        tenant_id=wanted.tenant_id,
        username=name,
        user_id=str(uuid.uuid4()),
        password_hash=password_hash,
        roles=_unique(wanted.roles),
        permissions=_unique(wanted.permissions),
        certificate=certificate,
        require_certificate=wanted.require_certificate,
        created_at=moment,
        updated_at=moment,
    )


async def _list_clients(admin: Administration, wanted: ListClients, _actor: str) -> Answer:
    after = wanted.cursor or ""
    rest = (
        client for client in admin.stores.clients if client.client_id > after and admin.sees(client.tenant_id)
    )
    page = list(islice(rest, wanted.limit + 1))
    more = len(page) > wanted.limit
    page = page[: wanted.limit]
    return {
        "clients": [_client(admin, client) for client in page],
        "next_cursor": page[-1].client_id if more else None,
    }


async def _show_client(admin: Administration, wanted: OneClient, _actor: str) -> Answer:
    return {"client": _client(admin, admin.known_client(wanted.client_id))}


async def _disable_client(admin: Administration, wanted: OneClient, actor: str) -> Answer:
    client = admin.changeable_client(wanted.client_id)
    if client.disabled_at is not None:
        return {"client": _client(admin, client)}
    admin.require_not_shut_out(client_id=client.client_id)
    moment = admin.timestamp()
    changed = msgspec.structs.replace(client, disabled_at=moment, updated_at=moment)
    return await _change(admin, changed, "clients.disable", actor)


async def _enable_client(admin: Administration, wanted: OneClient, actor: str) -> Answer:
    client = admin.changeable_client(wanted.client_id)
    if client.disabled_at is None:
        return {"client": _client(admin, client)}
    changed = msgspec.structs.replace(client, disabled_at=None, updated_at=admin.timestamp())
    return await _change(admin, changed, "clients.enable", actor)


async def _set_password(admin: Administration, wanted: SetPassword, actor: str) -> Answer:
    hashed = await _new_password(admin, wanted.client_id, wanted.password)
    async with admin.changing():
        client = admin.changeable_client(wanted.client_id)  # again: hashing takes a while
        password_hash = await hashed.still_for(admin, client)
        changed = msgspec.structs.replace(client, password_hash=password_hash, updated_at=admin.timestamp())
        await remember_password(admin.stores, client)
        answer = await _change(admin, changed, "clients.set_password", actor)
        return {**answer, "revoked": await _revoke_for_password(admin, client)}


async def _revoke_for_password(admin: Administration, client: ClientRecord) -> int:
    """End what the old password may have begun: all tokens but those of API keys; how many were live."""
    tokens = admin.stores.tokens.of_client(client.client_id)
    return await revoke(admin, [each for each in tokens if each.api_key_id is None])


async def _change_roles(admin: Administration, wanted: ChangeRoles, actor: str) -> Answer:
    client = admin.changeable_client(wanted.client_id)
    roles = _changed(client.roles, wanted.roles, wanted.add_roles, wanted.remove_roles, "role")
    permissions = _changed(
        client.permissions,
        wanted.permissions,
        wanted.add_permissions,
        wanted.remove_permissions,
        "permission",
    )
    _check_roles(admin, client.tenant_id, [role for role in roles if role not in client.roles])
    admin.require_grants(set(permissions) - set(client.permissions), "the permissions of a client")
    if (roles, permissions) == (client.roles, client.permissions):
        return {"client": _client(admin, client)}
    changed = msgspec.structs.replace(
        client, roles=roles, permissions=permissions, updated_at=admin.timestamp()
    )
    return await _change(admin, changed, "clients.roles", actor)


async def _change_client(admin: Administration, wanted: ChangeClient, actor: str) -> Answer:
    """Several things about a client in one write; each is an entry of its own."""
    password = wanted.password
    hashed = None if password is None else await _new_password(admin, wanted.client_id, password)
    async with admin.changing():
        client = admin.changeable_client(wanted.client_id)  # again: hashing takes a while
        password_hash = None if hashed is None else await hashed.still_for(admin, client)
        return await _changed_client(admin, wanted, actor, client, password_hash)


async def _changed_client(
    admin: Administration, wanted: ChangeClient, actor: str, client: ClientRecord, password_hash: str | None
) -> Answer:
    roles = client.roles if wanted.roles is None else _unique(wanted.roles)
    permissions = client.permissions if wanted.permissions is None else _unique(wanted.permissions)
    _check_roles(admin, client.tenant_id, [role for role in roles if role not in client.roles])
    admin.require_grants(set(permissions) - set(client.permissions), "the permissions of a client")
    certified = _certified(admin, client, wanted)
    moment, disabled_at, operations = admin.timestamp(), client.disabled_at, []
    if (roles, permissions) != (client.roles, client.permissions):
        operations.append("clients.roles")
    if certified != client:
        operations.append("clients.set_certificate")
    if password_hash is not None:
        operations.append("clients.set_password")
    if wanted.disabled is not None and wanted.disabled != (disabled_at is not None):
        admin.require_not_shut_out(client_id=client.client_id)
        disabled_at = moment if wanted.disabled else None
        operations.append("clients.disable" if wanted.disabled else "clients.enable")
    if wanted.change.said:
        check_change(client, wanted.change)
        operations.append("clients.profile")
    if not operations:
        return {"client": _client(admin, client)}
    changed = msgspec.structs.replace(
        certified,
        roles=roles,
        permissions=permissions,
        password_hash=password_hash or client.password_hash,
        disabled_at=disabled_at,
        updated_at=moment,
    )
    for operation in operations:
        said = wanted.change.said if operation == "clients.profile" else ""
        await admin.stores.audit.append(_entry(admin, actor, changed, operation, said))
    if password_hash is not None:
        await remember_password(admin.stores, client)
    await admin.stores.clients.put(changed)
    if wanted.change.said:
        changed = await Profiles(admin.stores, now=admin.now).change(changed, wanted.change)
    revoked = {} if password_hash is None else {"revoked": await _revoke_for_password(admin, client)}
    return {"client": _client(admin, changed), **revoked}


def _certified(admin: Administration, client: ClientRecord, wanted: ChangeClient) -> ClientRecord:
    """The client with the certificate that is wanted. Raises OperationError."""
    certificate = client.certificate if wanted.certificate is UNSET else wanted.certificate
    if certificate == NO_CERTIFICATE:
        certificate = None
    required = (
        client.require_certificate if wanted.require_certificate is None else wanted.require_certificate
    )
    if (certificate, required) == (client.certificate, client.require_certificate):
        return client
    admin.require_another(
        client.client_id, "your own certificate is changed by another administrator, or on the command line"
    )
    if certificate is None and required:
        raise OperationError("a client without a certificate cannot require one; change the other, too")
    if certificate != client.certificate:
        _check_certificate(admin, certificate)
    return msgspec.structs.replace(client, certificate=certificate, require_certificate=required)


async def _change(admin: Administration, record: ClientRecord, operation: str, actor: str) -> Answer:
    await admin.stores.audit.append(_entry(admin, actor, record, operation))
    await admin.stores.clients.put(record)
    return {"client": _client(admin, record)}


def _entry(
    admin: Administration, actor: str, client: ClientRecord, operation: str, said: str = ""
) -> AuditEntry:
    """Who did what to which client, now; where it was given something, with all that it has then."""
    granted = " ".join((*client.roles, *client.permissions))
    if operation == "clients.roles":
        said = granted or "none"
    if operation == "clients.add":
        unusual = client.certificate != client.client_id or client.require_certificate
        said = "; ".join(part for part in (granted, _certificate(client) if unusual else "") if part)
    if operation == "clients.set_certificate":
        said = _certificate(client)
    target = client.client_id if not said else f"{client.client_id}: {said}"[:MAX_TARGET]
    return admin.entry(
        actor, operation, client_id=client.client_id, tenant_id=client.tenant_id, target=target
    )


def _certificate(client: ClientRecord) -> str:
    needed = ", required" if client.require_certificate else ""
    return f"certificate {client.certificate or NO_CERTIFICATE}{needed}"


async def _new_password(admin: Administration, client_id: str, password: str) -> _Hashed:
    """The hash of a password that takes the place of a client's. Raises OperationError, Refused."""
    client = admin.changeable_client(client_id)
    admin.require_another(client_id, "your own password is changed by POST /auth/change-password")
    hashed = await _hashed(admin, password, client_id, password_hashes(admin.stores, client))
    return _Hashed(password, client.password_hash, hashed)


async def _hashed(admin: Administration, password: str, name: str, earlier: Sequence[str] = ()) -> str:
    """Raises OperationError, Refused."""
    async with admin.hashing:
        admin.require_still_in()
        return await _hash(admin, password, name, earlier)


async def _hash(admin: Administration, password: str, name: str, earlier: Sequence[str]) -> str:
    try:
        return await admin.hasher.hash_new(password, name, earlier)
    except ValueError as error:
        raise ParameterError(str(error)) from None
    except OverloadedError:
        raise OperationError("too many passwords are being hashed now; try again") from None


def _client(admin: Administration, record: ClientRecord) -> Answer:
    """A client with its profile, and without its password's hash."""
    answer: Answer = msgspec.to_builtins(record)
    answer["has_password"] = answer.pop("password_hash") is not None
    answer["mfa"] = msgspec.to_builtins(enabled_factor(admin.stores, record.client_id))
    return answer | Profiles(admin.stores, now=admin.now).shown(record)


def _check_name(admin: Administration, name: str) -> None:
    """Raises OperationError where the name was ever given to somebody, whoever may know of it."""
    taken = admin.stores.clients.get(name)
    if admin.tombstones.of_name(name) is not None or (taken is not None and taken.erased_at is not None):
        raise OperationError(f"the name {name} is taken; it was erased; names are not given twice")
    if taken is not None:
        here = "`ostiary clients show` shows it" if admin.sees(taken.tenant_id) else "choose another one"
        raise OperationError(f"the name {name} is taken; {here}")


def _check_certificate(admin: Administration, certificate: str | None) -> None:
    """Raises OperationError where the certificate id is somebody's, or was."""
    if certificate is None:
        return
    holder = admin.stores.clients.by_certificate(certificate)
    if holder is None and admin.tombstones.of_certificate(certificate) is None:
        return
    seen = holder is not None and admin.sees(holder.tenant_id)
    whose = f"belong to {holder.client_id}" if holder is not None and seen else "are somebody else's"
    raise OperationError(f"certificates of {certificate} {whose}; give another certificate id")


def _check_roles(admin: Administration, tenant_id: str, roles: Iterable[str]) -> None:
    """Raises OperationError where a client of that tenant may not be given one of these, or not by whoever asks."""
    book = admin.role_book
    for role in roles:
        grants = book.grants(tenant_id, role)
        if grants is None:
            near = did_you_mean(role, book.names(tenant_id))
            raise OperationError(f"no such role, in [roles] or made while running: {role[:80]!a}; {near}")
        admin.require_grants(grants, f"the role {role}")


def _changed(
    present: tuple[str, ...],
    replacement: tuple[str, ...] | None,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    what: str,
) -> tuple[str, ...]:
    start = present if replacement is None else replacement
    for word in remove:
        if word not in start:
            raise OperationError(f"the client has no {what} {word[:80]!a}; {did_you_mean(word, start)}")
    return _unique(word for word in (*start, *add) if word not in remove)


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


CLIENT_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "clients.add": Operation(AddClient, _add_client, own_turn=True),
    "clients.list": Operation(ListClients, _list_clients, changes=False),
    "clients.show": Operation(OneClient, _show_client, changes=False),
    "clients.disable": Operation(OneClient, _disable_client),
    "clients.enable": Operation(OneClient, _enable_client),
    "clients.set_password": Operation(SetPassword, _set_password, own_turn=True),
    "clients.roles": Operation(ChangeRoles, _change_roles),
    "clients.change": Operation(ChangeClient, _change_client, own_turn=True),
}
