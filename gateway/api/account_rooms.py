"""Puts together what accounts consist of; called once, from ``app``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.api.account import AccountEndpoint
from gateway.api.account_attempts import AttemptsEndpoint
from gateway.api.account_keys import ApiKeyEndpoint
from gateway.api.account_mfa import MfaEndpoint
from gateway.api.account_profile import ProfileEndpoint
from gateway.api.account_register import RegisterEndpoint
from gateway.api.issuing import Issuing
from gateway.api.oauth_door import OAuthDoor
from gateway.audit import Audit
from gateway.config.values import AccountSettings, ConfigError, Register
from gateway.edge.handler import Route
from gateway.identity.accounts import Accounts
from gateway.identity.api_keys import ApiKeys
from gateway.identity.clients import Passwords
from gateway.identity.lockouts import Lockouts
from gateway.identity.registration import Registration
from gateway.identity.sealing import Sealing, SealingError
from gateway.identity.second_factors import MfaSettings, SecondFactors
from gateway.identity.sessions import Sessions
from gateway.identity.tokens import Tokens
from persistence.protocols import ClientStore, Stores
from persistence.records import StoreError

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
    factors: SecondFactors
    lockouts: Lockouts

    def sweep(self) -> None:
        """To be called every second or so: what was kept for a moment is forgotten."""
        self.sessions.forget_answers()

    async def purge(self) -> None:
        """To be called now and then: what is over is forgotten."""
        try:
            await self.sessions.purge(_PURGE_SLICE)
            await self.api_keys.purge(_PURGE_SLICE)
            await self.factors.purge()
            await self.lockouts.purge(_PURGE_SLICE)
        except StoreError as error:
            log.critical("the store cannot be used: %s", error)


def open_accounts(
    *,
    stores: Stores,
    clients: ClientStore,
    tokens: Tokens,
    sessions: Sessions,
    api_keys: ApiKeys,
    factors: SecondFactors,
    public_url: str,
    register: Register,
    passwords: Passwords,
    lockouts: Lockouts,
    door: OAuthDoor,
    audit: Audit,
    turn: asyncio.Lock,
    now: Callable[[], float],
) -> AccountRooms:
    """Everything about accounts. ``clients``: as their tenants let them be known. ``turn``: held while one is changed."""
    issuing = Issuing(tokens, sessions, door, api_keys, factors, now)
    accounts = Accounts(stores, clients, passwords, turn=turn, now=now)
    account = AccountEndpoint(issuing=issuing, accounts=accounts, audit=audit)
    keys = ApiKeyEndpoint(keys=api_keys, accounts=accounts, tokens=tokens, audit=audit, now=now)
    mfa = MfaEndpoint(
        issuing=issuing,
        factors=factors,
        accounts=accounts,
        audit=audit,
        issuer=f"Ostiary ({urlsplit(public_url).hostname})",
    )
    profile = ProfileEndpoint(accounts=accounts, audit=audit)
    registration = Registration(stores, clients, passwords, register, turn=turn, now=now)
    registering = RegisterEndpoint(registration, door, audit)
    routes: dict[str, dict[str, Route]] = {}
    attempts = AttemptsEndpoint(stores.audit, now=now)
    for endpoint in (account, profile, keys, mfa, registering, attempts):
        routes |= endpoint.routes()
    return AccountRooms(issuing, routes, sessions, api_keys, factors, lockouts)


def open_factors(
    settings: AccountSettings,
    stores: Stores,
    stack: AsyncExitStack,
    lockouts: Lockouts,
    now: Callable[[], float],
) -> SecondFactors:
    """The second factors, where their key is at hand; ``stack`` closes them. Raises ConfigError."""
    factors = SecondFactors(
        stores,
        Sealing(settings.mfa_key_file),
        MfaSettings(frozenset(settings.mfa_required_roles)),
        lockouts=lockouts,
        now=now,
    )
    try:
        factors.check()
    except SealingError as error:
        raise ConfigError([str(error)]) from None
    stack.push_async_callback(factors.close)
    return factors
