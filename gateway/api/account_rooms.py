"""Puts together what accounts consist of; called once, from ``app``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.api.account import AccountEndpoint
from gateway.api.account_keys import ApiKeyEndpoint
from gateway.api.issuing import Issuing
from gateway.api.oauth_door import OAuthDoor
from gateway.audit import Audit
from gateway.edge import Route
from gateway.identity.accounts import Accounts
from gateway.identity.api_keys import ApiKeys
from gateway.identity.clients import Passwords
from gateway.identity.sessions import Sessions
from gateway.identity.tokens import Tokens
from persistence.records import StoreError, Stores

log = logging.getLogger("ostiary.errors")

_PURGE_SLICE: Final = 500


@dataclass(frozen=True, slots=True)
class AccountRooms:
    """What the rest of the gateway needs of accounts."""

    issuing: Issuing
    routes: Mapping[str, Mapping[str, Route]]
    """By path (by prefix, where it ends in ``/``) and method."""
    sessions: Sessions
    api_keys: ApiKeys

    def sweep(self) -> None:
        """To be called every second or so: what was kept for a moment is forgotten."""
        self.sessions.forget_answers()

    async def purge(self) -> None:
        """To be called now and then: what is over is forgotten."""
        try:
            await self.sessions.purge(_PURGE_SLICE)
            await self.api_keys.purge(_PURGE_SLICE)
        except StoreError as error:
            log.critical("the store cannot be written: %s", error)


def open_accounts(
    *,
    stores: Stores,
    tokens: Tokens,
    sessions: Sessions,
    api_keys: ApiKeys,
    passwords: Passwords,
    door: OAuthDoor,
    audit: Audit,
    turn: asyncio.Lock,
    now: Callable[[], float],
) -> AccountRooms:
    """``turn`` is held while a client is changed, whoever does it."""
    issuing = Issuing(tokens, sessions, door, api_keys, now)
    accounts = Accounts(stores, passwords, turn=turn, now=now)
    account = AccountEndpoint(issuing=issuing, accounts=accounts, audit=audit)
    keys = ApiKeyEndpoint(keys=api_keys, accounts=accounts, tokens=tokens, audit=audit, now=now)
    return AccountRooms(issuing, {**account.routes(), **keys.routes()}, sessions, api_keys)
