"""``/auth/api-keys``: one's own API keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.api.account import json_answer, json_body, owner, require_still_in
from gateway.api.oauth import NO_STORE
from gateway.audit import Audit
from gateway.clock import rfc3339
from gateway.config.shapes import parse_duration
from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest, Route
from gateway.identity.accounts import Accounts
from gateway.identity.api_keys import (
    DEFAULT_LIFETIME,
    DEFAULT_OVERLAP,
    MAX_LIFETIME,
    MAX_OVERLAP,
    ApiKeys,
    granted,
    unknown_key,
)
from gateway.identity.roles import requested_scope
from gateway.identity.tokens import Tokens
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from persistence.account_records import ApiKeyRecord
from persistence.records import AuditStatus

PATH: Final = "/auth/api-keys/"
_ROTATE: Final = "/rotate"

_Duration = Annotated[int, Meta(ge=1, le=int(MAX_LIFETIME))] | Annotated[str, Meta(max_length=16)] | None
_Permission = Annotated[str, Meta(min_length=1, max_length=200)]


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``expires_in``: seconds, or a duration such as ``"30d"``; none: 90 days. No scopes: all that the caller may do."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    scopes: Annotated[tuple[_Permission, ...], Meta(max_length=64)] = ()
    expires_in: _Duration = None


class RotateApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``overlap``: how long the old key is good beside the new one."""

    expires_in: _Duration = None
    overlap: Annotated[int, Meta(ge=0, le=int(MAX_OVERLAP))] | Annotated[str, Meta(max_length=16)] | None = (
        None
    )


class ApiKeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """A new key, shown this once. Its repr shows nothing of it."""

    api_key: str
    key_id: str
    prefix: str
    name: str
    scopes: tuple[str, ...]
    expires_at: str | None

    def __repr__(self) -> str:
        return "ApiKeyShown(…)"


class ApiKeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A key, for its owner."""

    key_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class ApiKeyList(msgspec.Struct, frozen=True, kw_only=True):
    """One's own keys."""

    api_keys: list[ApiKeyAnswer]


class ApiKeyEndpoint:
    """The handlers."""

    def __init__(
        self,
        *,
        keys: ApiKeys,
        accounts: Accounts,
        tokens: Tokens,
        audit: Audit,
        now: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._accounts = accounts
        self._tokens = tokens
        self._audit = audit
        self._now = now

    def routes(self) -> dict[str, dict[str, Route]]:
        """By path and method."""
        return {
            "/auth/api-keys": {"GET": Route(self.list_keys), "POST": Route(self.make)},
            PATH: {"DELETE": Route(self.remove), "POST": Route(self.rotate)},
        }

    @described(Description("One's own API keys.", {200: ApiKeyList}))
    async def list_keys(
        self, _request: GatewayRequest, _inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``GET /auth/api-keys``"""
        found = self._keys.of_client(owner(context))
        return json_answer(ApiKeyList(api_keys=[_listed(key) for key in found]))

    @described(
        Description(
            "Makes an API key, which is shown this once.", {201: ApiKeyShown}, body=NewApiKey, refusals=(409,)
        )
    )
    async def make(self, request: GatewayRequest, inbound: Inbound, context: ClientContext) -> web.Response:
        """``POST /auth/api-keys``"""
        client_id = owner(context)
        wanted = await json_body(request, NewApiKey)
        lifetime = _seconds("expires_in", wanted.expires_in, DEFAULT_LIFETIME)
        scope = requested_scope(" ".join(wanted.scopes), context.permissions)
        if isinstance(scope, Deny):
            raise Refused(scope)
        scopes = tuple((scope or context.scope).split())
        client = self._accounts.client(client_id)

        async def recorded(key: ApiKeyRecord) -> None:
            require_still_in(request)
            await self._record(inbound, context, "api_keys.add", granted(key))

        made = await self._keys.make(client, wanted.name, scopes, lifetime, recorded)
        if isinstance(made, Deny):
            raise Refused(made)
        return _shown(*made)

    @described(
        Description(
            "Makes a key in place of this one, which is good for a while longer.",
            {201: ApiKeyShown},
            body=RotateApiKey,
            refusals=(404, 409),
            template="{key_id}/rotate",
        )
    )
    async def rotate(self, request: GatewayRequest, inbound: Inbound, context: ClientContext) -> web.Response:
        """``POST /auth/api-keys/{key_id}/rotate``"""
        client_id = owner(context)
        rest = inbound.path.removeprefix(PATH)
        old = self._known(client_id, rest.removesuffix(_ROTATE)) if rest.endswith(_ROTATE) else None
        if old is None:
            raise Refused(unknown_key(client_id))
        if not context.permissions.cover(old.scopes):
            raise Refused(Deny(Reason.INVALID_SCOPE, "The key has scopes that this token does not have."))
        wanted = await json_body(request, RotateApiKey)
        lifetime = _seconds("expires_in", wanted.expires_in, DEFAULT_LIFETIME)
        overlap = _seconds("overlap", wanted.overlap, DEFAULT_OVERLAP, at_least=0.0, at_most=MAX_OVERLAP)
        key_id = old.key_id

        async def recorded(key: ApiKeyRecord) -> None:
            require_still_in(request)
            await self._record(inbound, context, "api_keys.rotate", f"{key_id}: {granted(key)}")

        client = self._accounts.client(client_id)
        made = await self._keys.rotate(client, key_id, lifetime=lifetime, overlap=overlap, recorded=recorded)
        if isinstance(made, Deny):
            raise Refused(made)
        if not self._keys.is_current(key_id):
            await self._tokens.end(*self._tokens.of_family(key_id))
        return _shown(*made)

    @described(
        Description(
            "Ends an API key, and the tokens that were had with it.",
            {204: None},
            refusals=(404,),
            template="{key_id}",
        )
    )
    async def remove(
        self, _request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``DELETE /auth/api-keys/{key_id}``"""
        key = self._known(owner(context), inbound.path.removeprefix(PATH))
        await self._record(inbound, context, "api_keys.revoke", key.key_id)
        await self._keys.remove(key)
        await self._tokens.end(*self._tokens.of_family(key.key_id))
        return web.Response(status=204, headers=NO_STORE)

    def _known(self, client_id: str, key_id: str) -> ApiKeyRecord:
        key = self._keys.get(client_id, key_id)
        if key is None:
            raise Refused(unknown_key(client_id))
        return key

    async def _record(self, inbound: Inbound, context: ClientContext, method: str, target: str) -> None:
        await self._audit.record(
            self._audit.entry(
                "admin_change",
                AuditStatus.OK,
                inbound,
                context,
                method=method,
                target=target,
                duration_ms=self._audit.since(inbound),
            )
        )


def _seconds(
    what: str, wanted: Any, default: float, *, at_least: float = 1.0, at_most: float = MAX_LIFETIME
) -> float:
    if wanted is None:
        return default
    seconds = parse_duration(wanted) if isinstance(wanted, str) else float(wanted)
    if seconds is None or not at_least <= seconds <= at_most:
        detail = (
            f'{what} is seconds, or text such as "30d": here {at_least:.0f} s to {at_most / 86400:.0f} days.'
        )
        raise Refused(Deny(Reason.BAD_REQUEST, detail))
    return seconds


def _expiry(key: ApiKeyRecord) -> str | None:
    return None if key.exp is None else rfc3339(key.exp)


def _shown(text: str, key: ApiKeyRecord) -> web.Response:
    answer = ApiKeyShown(
        api_key=text,
        key_id=key.key_id,
        prefix=key.prefix,
        name=key.name,
        scopes=key.scopes,
        expires_at=_expiry(key),
    )
    return json_answer(answer, status=201)


def _listed(key: ApiKeyRecord) -> ApiKeyAnswer:
    return ApiKeyAnswer(
        key_id=key.key_id,
        name=key.name,
        prefix=key.prefix,
        scopes=key.scopes,
        created_at=key.created_at,
        expires_at=_expiry(key),
        last_used_at=key.last_used_at,
    )
