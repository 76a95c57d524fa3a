"""The alarm about tokens that may have been stolen: an audit entry and a warning in the log."""

from __future__ import annotations

import logging

from gateway.audit import Audit
from gateway.identity.tokens import VerifiedToken
from gateway.identity.whereabouts import Suspect, Suspicion
from gateway.model import Inbound
from persistence.records import AuditStatus

log = logging.getLogger("ostiary.auth")

EVENT = "suspicious_use"


def alarm(audit: Audit) -> Suspect:
    """What is told of suspicious uses: it enters them, and warns."""

    def suspect(inbound: Inbound, token: VerifiedToken, suspicion: Suspicion, allowed: bool) -> None:  # noqa: FBT001
        audit.denied(  # as refusals are: a flood of them is summed up
            audit.entry(
                EVENT,
                AuditStatus.OK if allowed else AuditStatus.DENIED,
                inbound,
                reason=suspicion,
                target=inbound.path,
                client_id=token.client_id,
                token_id=token.token_id,
                duration_ms=audit.since(inbound),
            )
        )
        log.warning(
            "suspicious use of token %s of %s: %s, from %s (request %s, %s)",
            token.token_id,
            token.client_id,
            suspicion,
            inbound.address,
            inbound.request_id,
            "allowed" if allowed else "refused",
        )

    return suspect
