"""The administrative operations on certificates and on the files of a running gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.operations.administration import Administration, Answer, Operation, OperationError
from gateway.operations.parameters import RecordCertificate, Reload, RevokeCertificate
from persistence.records import (
    DEFAULT_TENANT,
    REVOKED_CERTIFICATES,
    AuditEntry,
    AuditStatus,
    RevokedCertificate,
)


async def _record(admin: Administration, wanted: RecordCertificate, actor: str) -> Answer:
    """Certificates are made beside the store: that one was made is all that is kept of it."""
    client = None if wanted.certificate is None else admin.stores.clients.by_certificate(wanted.certificate)
    await admin.stores.audit.append(
        AuditEntry(
            timestamp=admin.timestamp(),
            event="admin_change",
            status=AuditStatus.OK,
            client_id=None if client is None else client.client_id,
            tenant_id=DEFAULT_TENANT if client is None else client.tenant_id,
            method="certs.issue",
            target=wanted.name,
            certificate_thumbprint=wanted.certificate_thumbprint,
            actor=actor,
        )
    )
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
            revoked_at=admin.timestamp(),
        )
        await admin.stores.audit.append(
            AuditEntry(
                timestamp=record.revoked_at,
                event="admin_change",
                status=AuditStatus.OK,
                tenant_id=DEFAULT_TENANT,
                method="certs.revoke",
                target=f"serial {wanted.serial_number}",
                certificate_thumbprint=wanted.fingerprint,
                actor=actor,
            )
        )
        await revoked.put(record)
    return {"serial": wanted.serial_number, "x5t#S256": wanted.fingerprint, "revoked_at": record.revoked_at}


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
    "server.reload": Operation(Reload, _reload),
}
