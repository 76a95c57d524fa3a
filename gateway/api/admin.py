"""``/admin/api/…``: the administrative operations over HTTP, the same ones that the command line has.

- A list needs ``NOUN:read``, a change ``NOUN:write`` (``clients:write``). Both are for the caller's own tenant; whoever
  holds ``platform:NOUN``, too, acts on all tenants, or on the one that ``X-Tenant-ID`` names.
- What belongs to another tenant is not there (404).
- PATCH changes the members that are in the body, all of them or none; what is left out stays (RFC 7396 without null).
- DELETE of a client erases it; of a token, an API key or an invitation, revokes it; of a session, ends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import msgspec
from aiohttp import web

from gateway.api.admin_answers import (
    API_KEYS,
)
from gateway.api.admin_resources import RESOURCES, KeyRotation, Page, PageOfClient, Resource
from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest, read_body
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from gateway.operations.administration import (
    Administration,
    Caller,
    ForbiddenError,
    OperationError,
    ParameterError,
    UnknownError,
)
from gateway.operations.parameters import Parameters
from gateway.operations.table import OPERATIONS
from gateway.routes import Handler, Route
from gateway.strict_json import StrictJsonError, parse_object
from persistence.records import DEFAULT_TENANT

MAX_BODY: Final = 64 * 1024
PREFIX: Final = "/admin/api/"
_MEDIA: Final = frozenset({"application/json", "application/merge-patch+json"})
_REFUSALS: Final = (404, 409)
_ROTATE: Final = "/rotate"
_Object = dict[str, Any]


class AdminApi:
    """Makes the routes."""

    def __init__(self, admin: Administration) -> None:
        self._admin = admin

    def routes(self) -> dict[str, dict[str, Route]]:
        """By path (by prefix, where it ends in ``/``) and method."""
        table: dict[str, dict[str, Route]] = {}
        for resource in RESOURCES:
            path = PREFIX + resource.noun
            table[path] = {"GET": self._route(resource, "read", self._list(resource))}
            table[f"{path}/"] = {"GET": self._route(resource, "read", self._show(resource))}
            if resource.add is not None:
                table[path]["POST"] = self._route(resource, "write", self._add(resource, *resource.add))
            if resource.change is not None:
                change = self._change(resource, *resource.change)
                table[f"{path}/"]["PATCH"] = self._route(resource, "write", change)
            if resource.remove is not None:
                remove = self._remove(resource, resource.remove)
                table[f"{path}/"]["DELETE"] = self._route(resource, "write", remove)
        for path, method, action, handler in (
            ("exports/", "GET", "read", self._export),
            ("email-codes/", "POST", "write", self._email_code),
            ("second-factors/", "DELETE", "write", self._reset_second_factor),
            ("api-keys/", "POST", "write", self._rotate_key),
        ):
            route = Route(handler, (f"clients:{action}",), chooses_tenant=True)
            table.setdefault(PREFIX + path, {})[method] = route
        return table

    def _route(self, resource: Resource, action: str, handler: Handler) -> Route:
        return Route(handler, (f"{resource.area}:{action}",), chooses_tenant=True)

    def _list(self, resource: Resource) -> Handler:
        @described(
            Description(
                f"Lists the {resource.many}, a page at a time.",
                {200: resource.shown.page},
                query=resource.list_query,
                refusals=(404,) if resource.list_query is PageOfClient else (),
            )
        )
        async def handler(
            request: GatewayRequest, inbound: Inbound, context: ClientContext
        ) -> web.StreamResponse:
            wanted = _page(request.raw_path.partition("?")[2], resource)
            admin = self._for(context, inbound, resource.area)
            return _json(await _perform(admin, resource.operation("list"), wanted))

        return handler

    def _show(self, resource: Resource) -> Handler:
        @described(
            Description(
                f"Shows {resource.a_one}.",
                {200: resource.shown.one},
                refusals=_REFUSALS,
                template=f"{{{resource.key}}}",
            )
        )
        async def handler(
            _request: GatewayRequest, inbound: Inbound, context: ClientContext
        ) -> web.StreamResponse:
            admin = self._for(context, inbound, resource.area)
            answer = await _perform(admin, resource.operation("show"), _named(resource, inbound, admin))
            return _json(answer[resource.one])

        return handler

    def _add(self, resource: Resource, operation: str, body: type[Parameters]) -> Handler:
        @described(
            Description(f"Adds {resource.a_one}.", {201: resource.shown.added}, body=body, refusals=_REFUSALS)
        )
        async def handler(
            request: GatewayRequest, inbound: Inbound, context: ClientContext
        ) -> web.StreamResponse:
            wanted = await _body(request)
            admin = self._for(context, inbound, resource.area)
            if resource.noun in {"clients", "invitations"}:
                wanted.setdefault("tenant_id", _acting_on(admin) or DEFAULT_TENANT)
            elif resource.noun == "roles":
                wanted.setdefault("tenant_id", _acting_on(admin))
            answer = await _perform(admin, operation, wanted)
            secret = {resource.shown_once: answer[resource.shown_once]} if resource.shown_once else {}
            return _json(answer[resource.one] | secret, 201)

        return handler

    def _change(self, resource: Resource, operation: str, body: type[msgspec.Struct]) -> Handler:
        @described(
            Description(
                f"Changes what the body has of {resource.a_one}, all of it or nothing.",
                {200: resource.shown.one},
                body=body,
                refusals=_REFUSALS,
                template=f"{{{resource.key}}}",
            )
        )
        async def handler(
            request: GatewayRequest, inbound: Inbound, context: ClientContext
        ) -> web.StreamResponse:
            wanted = await _body(request)
            _check(wanted, body)
            admin = self._for(context, inbound, resource.area)
            answer = await _perform(admin, operation, wanted | _named(resource, inbound, admin))
            return _json(answer[resource.one])

        return handler

    def _remove(self, resource: Resource, operation: str) -> Handler:
        @described(
            Description(
                resource.removal,
                {204: None},
                refusals=_REFUSALS,
                template=f"{{{resource.key}}}",
            )
        )
        async def handler(
            _request: GatewayRequest, inbound: Inbound, context: ClientContext
        ) -> web.StreamResponse:
            admin = self._for(context, inbound, resource.area)
            await _perform(admin, operation, _named(resource, inbound, admin))
            return web.Response(status=204, headers={"Cache-Control": "no-store"})

        return handler

    @described(
        Description(
            "All that is held of a client, without secrets.",
            {200: _Object},
            refusals=_REFUSALS,
            template="{client_id}",
        )
    )
    async def _export(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        admin = self._for(context, inbound, "clients")
        query = _query(request.raw_path.partition("?")[2], ("cursor",))
        return _json(await _perform(admin, "clients.export", query | {"client_id": _id(inbound, "exports")}))

    @described(
        Description(
            "A code that proves a client's e-mail address, to be sent there.",
            {201: _Object},
            refusals=_REFUSALS,
            template="{client_id}",
        )
    )
    async def _email_code(
        self, _request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        admin = self._for(context, inbound, "clients")
        return _json(
            await _perform(admin, "clients.email_code", {"client_id": _id(inbound, "email-codes")}), 201
        )

    @described(
        Description(
            "Takes a client's second factor away, whose phone was lost.",
            {204: None},
            refusals=_REFUSALS,
            template="{client_id}",
        )
    )
    async def _reset_second_factor(
        self, _request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        admin = self._for(context, inbound, "clients")
        await _perform(admin, "clients.mfa_reset", {"client_id": _id(inbound, "second-factors")})
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    @described(
        Description(
            "Makes an API key in place of this one, which is good for a while longer.",
            {201: API_KEYS.added},
            body=KeyRotation,
            refusals=_REFUSALS,
            template="{key_id}/rotate",
        )
    )
    async def _rotate_key(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        wanted = await _body(request)
        _check(wanted, KeyRotation)
        admin = self._for(context, inbound, "clients")
        named = {"key_id": _id(inbound, "api-keys").removesuffix(_ROTATE)}
        answer = await _perform(admin, "api_keys.rotate", wanted | named)
        return _json(answer["key"] | {"api_key": answer["api_key"]}, 201)

    def _for(self, context: ClientContext, inbound: Inbound, noun: str) -> Administration:
        """The administration, on behalf of the caller. Raises Refused."""
        crossing = (f"platform:{noun}",)
        crosses = context.permissions.cover(crossing)
        named = inbound.tenant_id
        if named not in {None, context.tenant_id} and not crosses:
            deny = Deny(Reason.TENANT_MISMATCH, "You may not act on that tenant.", permissions=crossing)
            raise Refused(deny)
        everywhere = named is None and crosses
        return replace(
            self._admin, caller=Caller(context, inbound, None if everywhere else named or context.tenant_id)
        )


def _acting_on(admin: Administration) -> str | None:
    return None if admin.caller is None else admin.caller.tenant_id


async def _perform(admin: Administration, operation: str, parameters: Mapping[str, Any]) -> _Object:
    """Raises Refused."""
    try:
        return await OPERATIONS[operation].perform(admin, dict(parameters), "")
    except ParameterError as error:
        raise Refused(Deny(Reason.BAD_REQUEST, _sentence(error))) from None
    except UnknownError as error:
        raise Refused(Deny(Reason.NOT_FOUND, _sentence(error))) from None
    except ForbiddenError as error:
        raise Refused(Deny(Reason.PERMISSION_DENIED, _sentence(error), permissions=error.needed)) from None
    except OperationError as error:
        raise Refused(Deny(Reason.CONFLICT, _sentence(error))) from None


def _sentence(error: OperationError) -> str:
    text = " ".join(str(error).split())
    return f"{text[:1].upper()}{text[1:]}."


def _query(query: str, known: Sequence[str]) -> dict[str, str]:
    """The parameters of a query, each of them once. Raises Refused."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise Refused(Deny(Reason.BAD_REQUEST, "The query string cannot be read.")) from None
    given = dict(pairs)
    if len(given) != len(pairs) or given.keys() - set(known):
        raise Refused(Deny(Reason.BAD_REQUEST, f"The query has {', '.join(known)}, each once, and no more."))
    return given


def _page(query: str, resource: Resource) -> _Object:
    """The query of a list, as the operation's parameters. Raises Refused."""
    kind = resource.list_query or Page
    given = _query(query, kind.__struct_fields__)
    try:
        wanted: _Object = msgspec.to_builtins(msgspec.convert(given, kind, strict=False))
    except msgspec.ValidationError as error:
        raise Refused(Deny(Reason.BAD_REQUEST, f"The query is not acceptable: {error}.")) from None
    if resource.noun == "tokens" and "cursor" in wanted:
        if not str(wanted["cursor"]).isdecimal():
            raise Refused(Deny(Reason.BAD_REQUEST, "The cursor is not one of this list."))
        wanted["cursor"] = int(wanted["cursor"])
    return wanted


def _named(resource: Resource, inbound: Inbound, admin: Administration) -> _Object:
    """The parameters that name what the path names. Raises Refused."""
    name = _id(inbound, resource.noun)
    if resource.noun != "roles":
        return {resource.key: name}
    tenant, slash, role = name.rpartition("/")
    if not slash:
        return {"role": role, "tenant_id": _acting_on(admin)}
    return {"role": role, "tenant_id": None if tenant == "*" else tenant}


def _id(inbound: Inbound, noun: str) -> str:
    """What follows the noun in the path. Raises Refused."""
    try:
        name = unquote(inbound.path.removeprefix(f"{PREFIX}{noun}/"), errors="strict")
    except UnicodeDecodeError:
        raise Refused(Deny(Reason.BAD_REQUEST, "The path is not UTF-8.")) from None
    if not name:
        raise Refused(Deny(Reason.NOT_FOUND, f"Name one of the {noun}, or leave out the last /."))
    return name


async def _body(request: GatewayRequest) -> _Object:
    """The JSON object of a request. Raises Refused."""
    body = await read_body(request, MAX_BODY)
    if request.content_type not in _MEDIA:
        raise Refused(Deny(Reason.CONTENT_TYPE, "Send application/json."))
    try:
        return parse_object(body)
    except StrictJsonError as error:
        raise Refused(Deny(Reason.BAD_REQUEST, f"The body is not acceptable: {error}.")) from None


def _check(wanted: _Object, shape: type[msgspec.Struct]) -> None:
    """Whether it has that shape. Raises Refused."""
    try:
        msgspec.convert(wanted, shape)
    except msgspec.ValidationError as error:
        raise Refused(Deny(Reason.BAD_REQUEST, f"The body is not acceptable: {error}.")) from None


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document),
        status=status,
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )
