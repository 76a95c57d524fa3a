"""Sessions: what begins with a sign-in and goes on from refresh token to refresh token (RFC 9700 section 4.14.2).

- Each refresh gives a new refresh token and ends its parent. An earlier one that comes again was stolen, or its
  successor was: the whole family ends, access tokens included, with an alarm.
- A lost reply must lock nobody out: for ``[accounts] refresh_grace`` the same request with the direct parent gets the
  same answer. Answers are kept in memory alone. After a restart, such a request gets a new successor in place of the one
  that got lost, whose use would then be the alarm.
- A session is live as long as its refresh token is, so that whatever ends tokens ends sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from gateway.clock import rfc3339
from gateway.identity.tokens import Grant, Issued, Tokens, VerifiedToken
from gateway.model import Deny, Inbound, Reason
from gateway.remembered import Remembered
from persistence.account_records import SessionRecord
from persistence.large import in_turns
from persistence.protocols import Collection
from persistence.records import StoreError, TokenRecord

log = logging.getLogger("ostiary.auth")

USE_SECONDS: Final = 60.0
"""So often, at most, the use of a session's access tokens is noted."""
_MAX_ANSWERS: Final = 16_384
_MAX_NOTED: Final = 65_536


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a refresh token was exchanged for."""

    issued: Issued
    request: tuple[str, str | None]
    """What must be the same for the same answer."""
    until: float


@dataclass(frozen=True, slots=True)
class Reused:
    """A refresh token that was no longer good came again; its family has been ended."""

    record: TokenRecord
    deny: Deny


class Sessions:
    """All sessions of one gateway."""

    def __init__(
        self,
        store: Collection[SessionRecord],
        tokens: Tokens,
        *,
        grace: float,
        now: Callable[[], float],
    ) -> None:
        """``grace``: seconds in which the direct parent is accepted again."""
        self._store = store
        self._tokens = tokens
        self._grace = grace
        self._now = now
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._answers: Remembered[str, _Answer] = Remembered(_MAX_ANSWERS)
        self._noted: Remembered[str, float] = Remembered(_MAX_NOTED)

    # Beginning and going on

    async def begin(self, grant: Grant, inbound: Inbound, *, second_factor: bool = False) -> Issued | Deny:
        """The first tokens of a new session, stored. ``second_factor``: there was one. Raises StoreError."""
        issued = await self._tokens.issue(grant, with_refresh=True)
        if isinstance(issued, Deny) or issued.refresh is None:
            return issued
        session = self._new(issued.refresh, inbound)
        await self._store.put(msgspec.structs.replace(session, second_factor=second_factor))
        return issued

    async def renew(self, parent: TokenRecord, grant: Grant, inbound: Inbound) -> Issued | Deny | Reused:
        """What a refresh token, whose record is ``parent``, is exchanged for. Raises StoreError."""
        family_id = parent.family_id or parent.token_id
        turn = self._turns.get(family_id)
        if turn is None:
            turn = self._turns[family_id] = asyncio.Lock()
        async with turn:
            return await self._renew(family_id, parent.token_id, grant, inbound)

    async def _renew(
        self,
        family_id: str,
        parent_id: str,
        grant: Grant,
        inbound: Inbound,
    ) -> Issued | Deny | Reused:
        parent = self._tokens.get(parent_id)
        if parent is None:
            return _ended(None)
        session = self._store.get(family_id)
        if session is None:  # it began before there were sessions
            session = self._new(parent, inbound)
        if session.refresh_id == parent_id:
            if parent.revoked_at is not None:
                return _ended(parent)
            return await self._rotate(session, parent, parent, grant, inbound)
        # Before a reply leaves its parent is ended: one that was not has lost its reply in a crash.
        current = self._tokens.get(session.refresh_id)
        if current is None or current.revoked_at is not None:
            return _ended(parent)
        if session.parent_id != parent_id or (parent.revoked_at and not self._within_grace(session)):
            return await self._reused(parent)
        answer = self._answers.get(parent_id)
        if answer is None:  # lost in a restart, as the reply may be
            return await self._rotate(session, parent, current, grant, inbound)
        return answer.issued if answer.request == _request(grant) else await self._reused(parent)

    def _within_grace(self, session: SessionRecord) -> bool:
        if session.rotated_at is None:
            return False
        return self._now() < datetime.fromisoformat(session.rotated_at).timestamp() + self._grace

    async def _rotate(
        self,
        session: SessionRecord,
        parent: TokenRecord,
        replaced: TokenRecord,
        grant: Grant,
        inbound: Inbound,
    ) -> Issued | Deny:
        """New tokens, then the session, then the end of what they replace: a crash between leaves the parent good.

        Whoever ends the family meanwhile either sees the new tokens, or has ended ``replaced`` before they were there.
        """
        issued = await self._tokens.issue(grant, with_refresh=True)
        if isinstance(issued, Deny) or issued.refresh is None:
            return issued
        if not self._tokens.is_current(replaced.token_id):
            return await self._end_new(issued.refresh)
        moment = rfc3339(self._now())
        await self._store.put(
            msgspec.structs.replace(
                session,
                refresh_id=issued.refresh.token_id,
                parent_id=parent.token_id,
                rotated_at=moment,
                exp=issued.refresh.exp,
                address=inbound.address,
                user_agent=inbound.user_agent,
                certificate_thumbprint=grant.thumbprint,
                last_used_at=moment,
            )
        )
        await self._tokens.end(replaced, parent)
        if not self._tokens.is_current(issued.refresh.token_id):
            return await self._end_new(issued.refresh)
        if self._grace > 0:
            until = self._now() + self._grace
            self._answers.put(parent.token_id, _Answer(issued, _request(grant), until))
        return issued

    async def _end_new(self, refresh: TokenRecord) -> Deny:
        """The family was ended while its new tokens were being stored."""
        await self._tokens.revoke(refresh)
        return _ended(refresh)

    async def _reused(self, parent: TokenRecord) -> Reused:
        await self._tokens.revoke(parent)
        log.critical(
            "a refresh token of %s was used again: its session %s is ended; it was stolen, or its successor was",
            parent.client_id,
            parent.family_id,
        )
        detail = "The refresh token was used before, so its session is ended: sign in again."
        return Reused(parent, Deny(Reason.TOKEN_REVOKED, detail, client_id=parent.client_id))

    # Looking, ending

    def of_client(self, client_id: str) -> list[SessionRecord]:
        """The live sessions of that client, in the order in which they began."""
        return [each for each in self._store.where("client_id", client_id) if self._is_live(each)]

    def had_second_factor(self, refresh: TokenRecord) -> bool:
        """Whether the session of that refresh token was begun with a second factor."""
        session = self._store.get(refresh.family_id or refresh.token_id)
        return session is not None and session.second_factor

    def get(self, session_id: str) -> SessionRecord | None:
        """The session, if it is live."""
        session = self._store.get(session_id)
        return session if session is not None and self._is_live(session) else None

    async def end(self, *sessions: SessionRecord) -> int:
        """End their tokens; how many tokens were live. Raises StoreError."""
        count = 0
        for session in sessions:
            refresh = self._tokens.get(session.refresh_id)
            if refresh is not None:
                count += await self._tokens.revoke(refresh)
        return count

    async def end_but(self, client_id: str, keep: TokenRecord | None) -> int:
        """End whatever tokens the client has, but those of ``keep``'s session; how many. Raises StoreError."""
        family_id = None if keep is None else keep.family_id
        others = [
            each
            for each in self._tokens.of_client(client_id)
            if (family_id is None or each.family_id != family_id)
            and (keep is None or each.token_id != keep.token_id)
        ]
        return await self._tokens.end(*others)

    def used(self, token: VerifiedToken) -> None:
        """An access token of a session was used: noted now and then, and lost if the gateway dies."""
        family_id = token.family_id
        if family_id is None:
            return
        now = self._now()
        turn = self._turns.get(family_id)
        if turn is not None and turn.locked():
            return  # it is being renewed: what is read here may be out of date when it is written
        if now < (self._noted.get(family_id) or 0.0):
            return
        self._noted.put(family_id, now + USE_SECONDS)
        session = self._store.get(family_id)
        if session is None:
            return
        try:
            self._store.put_soon(msgspec.structs.replace(session, last_used_at=rfc3339(now)))
        except StoreError:
            log.warning("the use of a session could not be noted")

    def forget_answers(self) -> None:
        """Answers whose grace is over are kept no longer."""
        now = self._now()
        self._answers.drop(lambda answer: answer.until <= now)

    async def purge(self, at_most: int) -> None:
        """Forget sessions that are no longer live, with turns for others while it looks. Raises StoreError."""
        gone = [each.session_id async for each in in_turns(self._store) if not self._is_live(each)]
        if gone:
            await self._store.remove(*gone[:at_most])

    def _is_live(self, session: SessionRecord) -> bool:
        return self._tokens.is_current(session.refresh_id)

    def _new(self, refresh: TokenRecord, inbound: Inbound) -> SessionRecord:
        moment = rfc3339(self._now())
        return SessionRecord(
            session_id=refresh.family_id or refresh.token_id,
            client_id=refresh.client_id,
            tenant_id=refresh.tenant_id,
            refresh_id=refresh.token_id,
            exp=refresh.exp,
            address=inbound.address,
            user_agent=inbound.user_agent,
            certificate_thumbprint=refresh.certificate_thumbprint,
            created_at=moment,
            last_used_at=moment,
        )


def _request(grant: Grant) -> tuple[str, str | None]:
    return grant.scope, grant.thumbprint


def _ended(record: TokenRecord | None) -> Deny:
    detail = "The refresh token was revoked: sign in again."
    return Deny(Reason.TOKEN_REVOKED, detail, client_id=None if record is None else record.client_id)
