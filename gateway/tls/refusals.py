"""Who was turned away before any request could be read, into the audit."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass

from gateway.audit import Audit
from gateway.clock import rfc3339
from persistence.records import DEFAULT_TENANT, AuditEntry, AuditStatus


@dataclass(frozen=True, slots=True)
class TlsRefusals:
    """Enters ``tls_refused``; a flood is summed up like every other refusal."""

    audit: Audit
    now: Callable[[], float]

    def __call__(self, address: str, reason: str, certificate: bytes | None = None) -> None:
        """``certificate``: what was presented, in DER, where it is known; it was not trusted."""
        self.audit.denied(
            AuditEntry(
                timestamp=rfc3339(self.now()),
                event="tls_refused",
                status=AuditStatus.FAILED,
                tenant_id=DEFAULT_TENANT,
                reason=reason,
                address=address,
                certificate_thumbprint=None if certificate is None else _thumbprint(certificate),
            )
        )


def _thumbprint(der: bytes) -> str:
    """``x5t#S256`` (RFC 8705 section 3.1)."""
    return urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode("ascii")
