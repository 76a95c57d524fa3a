"""The door: throttle → authenticate → authorize → limit. Nothing else decides who comes in.

Each step is synchronous and gives a value; the first Deny ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.authn import Authenticator
from gateway.authz import authorize
from gateway.limits import TokenBuckets, network_of
from gateway.model import ALLOW, ClientContext, Decision, Deny, Inbound, Reason


@dataclass(frozen=True, slots=True)
class Admission:
    """Decides on each request before its handler runs."""

    authenticator: Authenticator
    clients: TokenBuckets
    """What each client may send; anonymous callers count by address."""
    failures: TokenBuckets
    """What each address may get wrong before it is not even looked at."""
    monotonic: Callable[[], float]

    def admit(self, inbound: Inbound, needed: tuple[str, ...]) -> ClientContext | Deny:
        """Who is calling, if that caller may have what needs ``needed``."""
        throttled = self._throttle(inbound)
        if isinstance(throttled, Deny):
            return throttled
        context = self.authenticator.authenticate(inbound)
        if isinstance(context, Deny):
            self.failures.take(network_of(inbound.address), self.monotonic())
            return context
        decision = authorize(context, needed)
        if isinstance(decision, Deny):
            return decision
        limited = self._limit(inbound, context)
        return limited if isinstance(limited, Deny) else context

    def _throttle(self, inbound: Inbound) -> Decision:
        wait = self.failures.wait(network_of(inbound.address), self.monotonic())
        return ALLOW if wait <= 0 else _too_many(wait)

    def _limit(self, inbound: Inbound, context: ClientContext) -> Decision:
        key = network_of(inbound.address) if context.client_id is None else f"client {context.client_id}"
        wait = self.clients.take(key, self.monotonic())
        return ALLOW if wait <= 0 else _too_many(wait)


def _too_many(wait: float) -> Deny:
    return Deny(Reason.RATE_LIMITED, f"Too many requests: wait {wait:.0f} s.", retry_after=wait)
