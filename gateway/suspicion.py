"""Alarms: tokens that may have been stolen, passwords that somebody guesses. An audit entry each, and a line in the log."""

from __future__ import annotations

import logging

from gateway.audit import Audit
from gateway.identity.lockouts import Alarm, Lockout, Scope
from gateway.identity.tokens import VerifiedToken
from gateway.identity.whereabouts import Suspect, Suspicion
from gateway.model import Inbound
from persistence.records import AuditStatus, ClientRecord

log = logging.getLogger("ostiary.auth")

EVENT = "suspicious_use"
LOCKED_OUT = "locked_out"


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


def lockout_alarm(audit: Audit) -> Alarm:
    """What is told of lock-outs: it enters them, and warns where it is somebody who is locked out."""

    def locked_out(lockout: Lockout) -> None:
        inbound = lockout.attempt.inbound
        audit.denied(  # as refusals are: a flood of them is summed up
            audit.entry(
                LOCKED_OUT,
                AuditStatus.DENIED,
                inbound,
                reason=lockout.scope,
                client_id=None if lockout.scope is Scope.ADDRESS else lockout.attempt.name,
                target=f"{lockout.seconds:.0f} s",
                duration_ms=audit.since(inbound),
            )
        )
        if lockout.scope is Scope.ADDRESS:
            log.warning(
                "too many wrong passwords from %s: locked for %.0f s", lockout.origin, lockout.seconds
            )
        elif lockout.client is not None:  # a name that nobody has could be a password
            _warn_of_account(lockout, lockout.client)

    return locked_out


def _warn_of_account(lockout: Lockout, client: ClientRecord) -> None:
    name, seconds = client.client_id, lockout.seconds
    if lockout.scope is Scope.SECOND_FACTOR:
        log.critical(
            "too many wrong codes for client %s, by somebody who knows its password: locked for %.0f s",
            name,
            seconds,
        )
    elif lockout.scope is Scope.ACCOUNT:
        log.warning(
            "too many wrong passwords for client %s, from several addresses: locked for %.0f s wherever it has not"
            " signed in from; `ostiary clients unlock` ends it",
            name,
            seconds,
        )
    else:
        log.warning(
            "too many wrong passwords for client %s from %s: locked there for %.0f s; `ostiary clients unlock` ends it",
            name,
            lockout.origin,
            seconds,
        )
