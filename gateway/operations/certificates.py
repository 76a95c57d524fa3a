"""The administrative operations on certificates and on the files of a running gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.identity.certificates import revocation_of
from gateway.identity.clients import is_enabled
from gateway.identity.tenants import known_clients
from gateway.operations.administration import Administration, Answer, Operation, OperationError
from gateway.operations.parameters import (
    ExamineCertificate,
    ListRevoked,
    RecordCertificate,
    Reload,
    RevokeCertificate,
)
from persistence.records import (
    DEFAULT_TENANT,
    REVOKED_CERTIFICATES,
    RevokedCertificate,
)


async def _record(admin: Administration, wanted: RecordCertificate, actor: str) -> Answer:
    """Certificates are made beside the store: that one was made is all that is kept of it."""
    client = None if wanted.certificate is None else admin.stores.clients.by_certificate(wanted.certificate)
    entry = admin.entry(
        actor,
        "certs.issue",
        client_id=None if client is None else client.client_id,
        tenant_id=DEFAULT_TENANT if client is None else client.tenant_id,
        target=wanted.name,
        certificate_thumbprint=wanted.certificate_thumbprint,
    )
    await admin.stores.audit.append(entry)
    return {"client_id": None if client is None else client.client_id}


async def _revoke(admin: Administration, wanted: RevokeCertificate, actor: str) -> Answer:
    """From now on the certificate is refused, whatever the CRL says. One that was revoked before keeps its date."""
    revoked = admin.stores.collection(REVOKED_CERTIFICATES)
    key = wanted.fingerprint or f"serial:{wanted.serial_number}"
    record = revoked.get(key)
    if record is None:
        record = RevokedCertificate(
            revocation_id=key,
            fingerprint=wanted.fingerprint,
            serial_number=wanted.serial_number,
            issuer=wanted.issuer,
            revoked_at=admin.timestamp(),
        )
        entry = admin.entry(
            actor,
            "certs.revoke",
            tenant_id=DEFAULT_TENANT,
            target=f"serial {wanted.serial_number}",
            certificate_thumbprint=wanted.fingerprint,
        )
        await admin.stores.audit.append(entry)
        await revoked.put(record)
    return {"serial": wanted.serial_number, "x5t#S256": wanted.fingerprint, "revoked_at": record.revoked_at}


async def _examine(admin: Administration, wanted: ExamineCertificate, _actor: str) -> Answer:
    """Whose the certificate is, and whether it was revoked here."""
    clients = known_clients(admin.stores)
    client = None if wanted.certificate is None else clients.by_certificate(wanted.certificate)
    if client is not None and wanted.certificate_tenant not in {None, client.tenant_id}:
        client = None
    record = revocation_of(
        admin.stores.collection(REVOKED_CERTIFICATES),
        fingerprint=wanted.fingerprint,
        serial_number=wanted.serial_number,
        issuer=wanted.issuer,
    )
    return {
        "client_id": None if client is None else client.client_id,
        "tenant_id": None if client is None else client.tenant_id,
        "enabled": client is not None and is_enabled(client),
        "revoked_at": None if record is None else record.revoked_at,
    }


async def _revoked(admin: Administration, wanted: ListRevoked, _actor: str) -> Answer:
    """What is refused whatever the CRL says."""
    after = wanted.cursor or ""
    revoked = admin.stores.collection(REVOKED_CERTIFICATES)
    rest = sorted(
        (each for each in revoked if each.revocation_id > after), key=lambda each: each.revocation_id
    )
    page, more = rest[: wanted.limit], len(rest) > wanted.limit
    return {
        "revoked": [
            {
                "serial": each.serial_number,
                "x5t#S256": each.fingerprint,
                "issuer": each.issuer,
                "revoked_at": each.revoked_at,
            }
            for each in page
        ],
        "next_cursor": page[-1].revocation_id if more else None,
    }


async def _reload(admin: Administration, _wanted: Reload, _actor: str) -> Answer:
    """Have a running gateway read its files anew."""
    if admin.reload is None:
        raise OperationError("no server is running: the files are read when one starts")
    problems = await admin.reload()
    if problems:
        raise OperationError("\n".join(f"the old state stays in force: {problem}" for problem in problems))
    return {"reloaded": True}


CERTIFICATE_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "certs.issue": Operation(RecordCertificate, _record),
    "certs.revoke": Operation(RevokeCertificate, _revoke),
    "certs.examine": Operation(ExamineCertificate, _examine, changes=False),
    "certs.revoked": Operation(ListRevoked, _revoked, changes=False),
    "server.reload": Operation(Reload, _reload),
}
