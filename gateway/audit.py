"""The audit, as the request path sees it: who did what, from where, and how it ended.

Three ways in, by what a lost entry would mean:

- ``record``: what the gateway did itself (a token, an account). Durable before the reply.
- ``begin`` … ``finish``: what is forwarded. The intent is durable before it is sent, the outcome is handed to the
  journal before the reply's last byte.
- ``refused``: what was refused. Handed to the journal; a flood is summed up, so that nobody can fill the disk. Once the
  disk has no more than the reserve for known callers, refusals are summed up in memory until there is room again.

No audit, no action: where the journal takes no more, ``record`` and ``begin`` refuse (``[audit] on_failure``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from gateway.clock import rfc3339
from gateway.config.values import OnAuditFailure, Redaction
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from gateway.problems import ANSWERS
from persistence.audit_erasure import acted_upon
from persistence.protocols import AuditStore, Intent
from persistence.records import DEFAULT_TENANT, AuditEntry, AuditStatus, ClientRecord, StoreError

log = logging.getLogger("ostiary.audit")

FLOOD_BURST: Final = 10
"""So many refusals for one reason from one address are entered one by one; beyond that, one entry a second."""
MAX_FLOODS: Final = 4096
"""How many (reason, address) pairs are told apart at a time; the rest are summed up by reason alone."""
REDACTED: Final = "[redacted]"
"""What stands in an entry for text that a rule keeps out of it."""
MAX_TEXT: Final = 512
"""Characters of what a caller may write into an entry."""


_OPTIONAL: Final = (
    "client_id",
    "address",
    "tool_name",
    "duration_ms",
    "request_id",
    "user_agent",
    "upstream",
    "method",
    "target",
    "token_id",
    "certificate_thumbprint",
    "actor",
)
_OF_CALLS: Final = ("era", "rule", "arguments_digest", "request_bytes", "response_bytes", "api_key_id")
"""What two refusals that are summed up may disagree on; the rest is what makes them alike, or when it began."""


@dataclass(slots=True)
class _Flood:
    """What has come lately for one reason from one address."""

    budget: float
    updated: float
    held: AuditEntry | None = None


class Pending:
    """An action that is under way; ``finish`` it once."""

    def __init__(self, trail: Audit, intent: Intent | None, started: float) -> None:
        self._trail = trail
        self._intent = intent
        self._started = started
        self.finished = False

    def finish(
        self, status: AuditStatus, reason: str | None = None, response_bytes: int | UnsetType = UNSET
    ) -> bool:
        """Hand the outcome to the journal; a second call does nothing. False: the journal would not take it."""
        if self.finished:
            return True
        self.finished = True
        return self._trail.finish(
            self._intent, self._started, status, reason=reason, response_bytes=response_bytes
        )


class Audit:
    """Writes entries, with the facts of the request that every entry has."""

    def __init__(
        self,
        store: AuditStore,
        on_failure: OnAuditFailure,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        client_of: Callable[[str], ClientRecord | None] = lambda _client_id: None,
        redact: Sequence[Redaction] = (),
    ) -> None:
        """``client_of``: the client, where all that is known of somebody is a name; an erased one by its pseudonym."""
        self._store = store
        self._client_of = client_of
        self._refuse = on_failure is OnAuditFailure.REFUSE
        self._redactions = redact
        self._now = now
        self._monotonic = monotonic
        self._floods: OrderedDict[tuple[str, str], _Flood] = OrderedDict()
        self._withheld: dict[tuple[str | None, str, str | None], AuditEntry] = {}
        """By tenant, event and reason: the sum of what there was no room for."""
        self._flusher: asyncio.Task[None] | None = None

    def entry(
        self,
        event: str,
        status: AuditStatus,
        inbound: Inbound,
        context: ClientContext | None = None,
        *,
        reason: str | None = None,
        tool_name: str | None = None,
        upstream: str | None = None,
        method: str | None = None,
        target: str | None = None,
        client_id: str | None = None,
        token_id: str | None = None,
        duration_ms: float | None = None,
        era: str | UnsetType = UNSET,
        rule: str | UnsetType = UNSET,
        arguments_digest: str | UnsetType = UNSET,
        request_bytes: int | UnsetType = UNSET,
    ) -> AuditEntry:
        """An entry with everything that the request and its caller tell."""
        peer = inbound.peer
        if context is not None and context.client_id is not None:
            client_id, tenant_id = context.client_id, context.tenant_id
        else:
            client = None if client_id is None else self._client_of(client_id)
            tenant_id = None if client is None else client.tenant_id
            client_id = client_id if client is None else client.client_id
        return AuditEntry(
            timestamp=rfc3339(self._now()),
            event=event,
            status=status,
            client_id=client_id,
            tenant_id=tenant_id or DEFAULT_TENANT,
            tool_name=tool_name if tool_name is None else tool_name[:MAX_TEXT],
            duration_ms=duration_ms,
            reason=reason,
            request_id=inbound.request_id,
            address=inbound.address,
            user_agent=inbound.user_agent,
            upstream=upstream,
            method=method or inbound.method,
            target=self._target(target),
            token_id=token_id or (context.token_id if context is not None else None),
            certificate_thumbprint=peer.fingerprint if peer is not None else None,
            era=era,
            rule=rule,
            arguments_digest=arguments_digest,
            request_bytes=request_bytes,
            api_key_id=UNSET if context is None or context.api_key_id is None else context.api_key_id,
        )

    def _target(self, target: str | None) -> str | None:
        """What was acted upon, as far as it may be written: nobody's name comes back who was erased."""
        name = acted_upon(target)
        client = None if name is None else self._client_of(name)
        if target is None or (client is not None and client.erased_at is not None):
            return None
        return target[:MAX_TEXT]

    def since(self, inbound: Inbound) -> float:
        """Milliseconds from the request's arrival until now."""
        return round(1000 * (self._monotonic() - inbound.started), 3)

    async def record(self, entry: AuditEntry) -> None:
        """Durable on return. Raises Refused where it cannot be, unless the configuration says to go on."""
        try:
            await self._store.append(self.redacted(entry))
        except StoreError as error:
            self._failed(error)

    async def did(
        self, event: str, inbound: Inbound, context: ClientContext, target: str | None = None
    ) -> None:
        """``record`` what a caller does to its own account. ``target``: if not the client itself."""
        await self.record(
            self.entry(
                event,
                AuditStatus.OK,
                inbound,
                context,
                target=target or context.client_id,
                duration_ms=self.since(inbound),
            )
        )

    async def begin(self, entry: AuditEntry, started: float) -> Pending:
        """The intent, durable on return. Raises Refused as ``record`` does. ``started``: monotonic seconds."""
        try:
            intent = await self._store.begin(self.redacted(entry))
        except StoreError as error:
            self._failed(error)
            return Pending(self, None, started)
        return Pending(self, intent, started)

    def finish(
        self,
        intent: Intent | None,
        started: float,
        status: AuditStatus,
        *,
        reason: str | None,
        response_bytes: int | UnsetType,
    ) -> bool:
        """For ``Pending`` alone."""
        if intent is None:
            return not self._refuse
        try:
            intent.finish(
                status,
                timestamp=rfc3339(self._now()),
                duration_ms=round(1000 * (self._monotonic() - started), 3),
                reason=reason,
                response_bytes=response_bytes,
            )
        except StoreError as error:
            log.critical("an outcome could not be audited: %s", error)
            return not self._refuse
        return True

    def refused(self, inbound: Inbound, deny: Deny, context: ClientContext | None = None) -> None:
        """Somebody was refused at the edge; nothing is written for reasons that refuse nobody."""
        answer = ANSWERS[deny.reason]
        if answer.event is None:
            return
        self.denied(
            self.entry(
                answer.event,
                answer.outcome,
                inbound,
                deny.caller or context,
                reason=deny.reason,
                target=inbound.path,
                client_id=deny.client_id,
                duration_ms=self.since(inbound),
            )
        )

    def denied(self, entry: AuditEntry) -> None:
        """A refusal: entered at once, or summed up with others of its reason and address."""
        now = self._monotonic()
        flood = self._flood(entry, now)
        if flood.held is not None:
            flood.held = _sum_up(flood.held, entry)
            return
        flood.budget = min(FLOOD_BURST, flood.budget + now - flood.updated)
        flood.updated = now
        if flood.budget >= 1:
            flood.budget -= 1
            self._write(entry)
        else:
            flood.held = entry
            self._flush_soon()

    async def close(self) -> None:
        """Write what was summed up."""
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        self._flush()
        self._enter_withheld()
        if self._withheld:
            count = sum(entry.count for entry in self._withheld.values())
            log.critical("%d refusals were never entered in the audit: the store took none to the end", count)

    def _flood(self, entry: AuditEntry, now: float) -> _Flood:
        key = (f"{entry.tenant_id}:{entry.event}:{entry.reason}", entry.address or "")
        flood = self._floods.get(key)
        if flood is None and len(self._floods) >= MAX_FLOODS:
            oldest = next(iter(self._floods))
            if self._floods[oldest].held is None:
                del self._floods[oldest]
            else:
                key = (key[0], "*")
                flood = self._floods.get(key)
        if flood is None:
            flood = self._floods[key] = _Flood(budget=FLOOD_BURST, updated=now)
        self._floods.move_to_end(key)
        return flood

    def _flush_soon(self) -> None:
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush_later())

    async def _flush_later(self) -> None:
        while self._withheld or any(flood.held is not None for flood in self._floods.values()):
            await asyncio.sleep(1)
            self._flush()
        self._flusher = None

    def _flush(self) -> None:
        now = self._monotonic()
        for flood in self._floods.values():
            if flood.held is not None:
                held, flood.held = flood.held, None
                flood.budget, flood.updated = 0.0, now
                self._write(held)
        if self._withheld and self._store.has_room():
            self._enter_withheld()

    def _enter_withheld(self) -> None:
        """As far as the store takes them; the rest waits on."""
        count = len(self._withheld)
        for key, entry in list(self._withheld.items()):
            try:
                self._store.append_soon(self.redacted(entry))
            except StoreError:
                break
            del self._withheld[key]
        if count and not self._withheld:
            log.warning("refusals can be entered again: those that were summed up are in the audit")

    def _write(self, entry: AuditEntry) -> None:
        """Enter a refusal, where there is room for what anybody can cause."""
        if not self._store.has_room():
            self._withhold(entry)
        else:
            self._enter(entry)

    def _enter(self, entry: AuditEntry) -> None:
        try:
            self._store.append_soon(self.redacted(entry))
        except StoreError as error:
            log.critical("a refusal could not be audited yet: %s", error)
            self._withhold(entry)

    def _withhold(self, entry: AuditEntry) -> None:
        if not self._withheld:
            log.warning(
                "the store takes no refusals now: they are summed up in memory until it has room; make some"
            )
        key = (entry.tenant_id, entry.event, entry.reason)
        held = self._withheld.get(key)
        self._withheld[key] = entry if held is None else _sum_up(held, entry)
        self._flush_soon()

    def redacted(self, entry: AuditEntry) -> AuditEntry:
        """What of the entry may be written."""
        for rule in self._redactions:
            value = getattr(entry, rule.field)
            if isinstance(value, str):
                nothing = UNSET if rule.field in _OF_CALLS else None
                kept = nothing if rule.match is None else rule.match.sub(REDACTED, value)
                entry = msgspec.structs.replace(entry, **{rule.field: kept})
        return entry

    def _failed(self, error: StoreError) -> None:
        log.critical("the audit cannot be written: %s", error)
        if self._refuse:
            raise Refused(
                Deny(
                    Reason.STORE_UNAVAILABLE,
                    "The audit cannot be written, so nothing is done: try again later.",
                )
            ) from error


def _sum_up(held: AuditEntry, entry: AuditEntry) -> AuditEntry:
    """One entry for both: what they do not agree on is left out."""
    differing: dict[str, object] = {
        name: None for name in _OPTIONAL if getattr(held, name) != getattr(entry, name)
    }
    differing |= {name: UNSET for name in _OF_CALLS if getattr(held, name) != getattr(entry, name)}
    return msgspec.structs.replace(held, count=held.count + entry.count, **differing)
