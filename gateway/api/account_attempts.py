"""``GET /auth/attempts``: who tried to sign in to one's account, from the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web

from gateway.api.account import json_answer, owner
from gateway.clock import rfc3339
from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest, Route
from gateway.limits import TokenBuckets
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from persistence.protocols import AuditStore
from persistence.records import AuditEntry, AuditQuery

EVENTS: Final = ("login", "token_issued", "auth_failed", "locked_out", "suspicious_use", "token_reuse")
DAYS: Final = 30
MOST: Final = 100
PER_MINUTE: Final = 6
AMONG: Final = 200_000
"""Entries: the audit is searched for each answer, which takes a third of a second for so many."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One entry, for whose account it is. ``certificate``: ``x5t#S256``; ``count``: how many like ones it sums up."""

    timestamp: str
    event: str
    status: str
    reason: str | None
    address: str | None
    user_agent: str | None
    certificate: str | None
    count: int


class AttemptList(msgspec.Struct, frozen=True, kw_only=True):
    """The newest ones, newest first."""

    attempts: list[Attempt]


class AttemptsEndpoint:
    """The handler."""

    def __init__(self, audit: AuditStore, *, now: Callable[[], float]) -> None:
        self._audit = audit
        self._now = now
        self._asked = TokenBuckets(PER_MINUTE, PER_MINUTE)
        self._turn = asyncio.Lock()
        """Held while the audit is searched: however many ask, no more than one processor is busy with them."""

    def routes(self) -> dict[str, dict[str, Route]]:
        """By path and method."""
        return {"/auth/attempts": {"GET": Route(self.attempts)}}

    @described(
        Description("Who signed in to the account, or tried to, in the last 30 days.", {200: AttemptList})
    )
    async def attempts(
        self, _request: GatewayRequest, _inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``GET /auth/attempts``"""
        client_id, now = owner(context), self._now()
        wait = self._asked.take(client_id, now)
        if wait > 0:
            detail = f"Too many questions: wait {max(1, round(wait))} s."
            raise Refused(Deny(Reason.RATE_LIMITED, detail, retry_after=wait, client_id=client_id))
        since = rfc3339(now - DAYS * 86400)
        wanted = AuditQuery(client_id=client_id, events=EVENTS, since=since, limit=MOST, among=AMONG)
        async with self._turn:
            page = await self._audit.query(wanted)
        return json_answer(AttemptList(attempts=[_shown(entry) for entry in page.entries]))


def _shown(entry: AuditEntry) -> Attempt:
    return Attempt(
        timestamp=entry.timestamp,
        event=entry.event,
        status=entry.status,
        reason=entry.reason,
        address=entry.address,
        user_agent=entry.user_agent,
        certificate=entry.certificate_thumbprint,
        count=entry.count,
    )
