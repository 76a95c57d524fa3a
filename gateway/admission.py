"""The door: throttle → authenticate → authorize → limit. Nothing else decides who comes in.

Each step is synchronous and gives a value; the first Deny ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.authn import Authenticator
from gateway.authz import agree_on_tenant, authorize
from gateway.limits import TokenBuckets, network_of
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused


@dataclass(frozen=True, slots=True)
class Admission:
    """Decides on each request before its handler runs."""

    authenticator: Authenticator
    clients: TokenBuckets
    """What each client may send; anonymous callers count by address."""
    failures: TokenBuckets
    """What each address, or the holder of each certificate, may get wrong before it is not even looked at."""
    monotonic: Callable[[], float]

    def admit(
        self, inbound: Inbound, needed: tuple[str, ...], *, chooses_tenant: bool = False
    ) -> ClientContext | Deny:
        """Who is calling, if that caller may have what needs ``needed``."""
        throttled = self.throttle(inbound)
        if throttled is not None:
            return throttled
        context = self.authenticator.authenticate(inbound)
        if isinstance(context, Deny):
            self.failed(inbound)
            return context
        if inbound.tenant_id is not None:
            disagreement = agree_on_tenant(context, inbound.tenant_id, chooses=chooses_tenant)
            if disagreement is not None:
                return disagreement
        decision = authorize(context, needed)
        if isinstance(decision, Deny):
            return decision
        return self.limit(context.client_id, inbound) or context

    def readmit(self, inbound: Inbound, context: ClientContext) -> None:
        """Raises Refused where a caller who was let in a while ago would not be now, with all those rights."""
        if not self.authenticator.still_valid(context, inbound.peer):
            again = self.authenticator.authenticate(inbound)
            raise Refused(again if isinstance(again, Deny) else _changed(context))
        current = self.authenticator.current(context)
        if current is None or not current.permissions.grants >= context.permissions.grants:
            raise Refused(_changed(context))

    def throttle(self, inbound: Inbound) -> Deny | None:
        """The refusal of a caller who got too much wrong lately; to be asked before any credential is looked at."""
        wait = self.failures.wait(_origin(inbound), self.monotonic())
        return None if wait <= 0 else _too_many(wait)

    def failed(self, inbound: Inbound) -> None:
        """Credentials were refused: it counts against where they came from."""
        self.failures.take(_origin(inbound), self.monotonic())

    def limit(self, client_id: str | None, inbound: Inbound) -> Deny | None:
        """Count one request of the client; the refusal where it is one too many."""
        key = network_of(inbound.address) if client_id is None else f"client {client_id}"
        wait = self.clients.take(key, self.monotonic())
        return None if wait <= 0 else _too_many(wait, client_id)


def _changed(context: ClientContext) -> Deny:
    detail = "What you may do was changed meanwhile: send the request again."
    return Deny(Reason.CONFLICT, detail, caller=context)


def _origin(inbound: Inbound) -> str:
    """Whom mistakes count against: a verified certificate's holder does not pay for others behind the same address."""
    if inbound.peer is not None:
        return f"certificate {inbound.peer.fingerprint}"
    return network_of(inbound.address)


def _too_many(wait: float, client_id: str | None = None) -> Deny:
    detail = f"Too many requests: wait {wait:.0f} s."
    return Deny(Reason.RATE_LIMITED, detail, retry_after=wait, client_id=client_id)
