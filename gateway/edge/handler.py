"""The edge: the only place where a request becomes an Inbound, and where a Deny becomes a response.

What a next hop might read differently from the gateway is refused here, before anything else looks at it. Every
answer leaves with the security headers and the request id.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.admission import Admission
from gateway.audit import Audit
from gateway.authn import UNMAPPED
from gateway.edge.ambiguity import Readings
from gateway.edge.client_cert import NO_CERTIFICATE, Terminators
from gateway.edge.cors import Cors
from gateway.edge.reply import GatewayRequest
from gateway.model import ANONYMOUS, ClientContext, Deny, Inbound, Reason, Refused
from gateway.problems import Problems
from gateway.routes import Handler, Route, Routes
from gateway.tls.connection import Connection
from gateway.tls.listener import TlsRefused
from persistence.records import StoreError

__all__ = ["BROKEN_BODY", "Edge", "GatewayRequest", "Handler", "Route", "Routes", "late_body", "read_body"]

log = logging.getLogger("ostiary.errors")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,128}")
_LASTING: Final = frozenset(
    {
        Reason.CERTIFICATE_EXPIRED,
        Reason.CERTIFICATE_REVOKED,
        Reason.CERTIFICATE_UNTRUSTED,
        Reason.CRL_EXPIRED,
        Reason.CLIENT_DISABLED,
        Reason.CLIENT_UNKNOWN,
    }
)
"""What a certificate's holder will be told again, whatever else comes on the connection."""
_UNREADABLE: Final = Deny(Reason.BAD_REQUEST, "This is not an HTTP request that the gateway can read.")
_LATE: Final = Deny(Reason.REQUEST_TIMEOUT, "The head of the request did not arrive in time.")
_NO_HEADERS: Final = CIMultiDictProxy(CIMultiDict[str]())
"""For a request that could not be read: aiohttp gives it an ordinary dictionary."""


class Edge:
    """The outermost handler."""

    def __init__(
        self,
        *,
        routes: Routes,
        admission: Admission,
        audit: Audit,
        problems: Problems,
        readings: Readings,
        cors: Cors,
        terminators: Terminators,
        tls_refused: TlsRefused,
        monotonic: Callable[[], float],
    ) -> None:
        self.refused_certificate = tls_refused
        """Told of a certificate that cannot be read."""
        self._routes = routes
        self._admission = admission
        self._audit = audit
        self._problems = problems
        self._readings = readings
        self._cors = cors
        self._terminators = terminators
        self._monotonic = monotonic
        self._process = secrets.token_hex(8)
        self._requests = itertools.count(1)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if not isinstance(request, GatewayRequest):
            raise TypeError("a request that the edge did not make")
        inbound = self._inbound(request)
        request.request_id = inbound.request_id
        context = ANONYMOUS
        try:
            self._let_in(request)
            inbound = self._terminators.looked_through(inbound, request.headers)
            preflight = self._cors.preflight(request) if request.page_origin is not None else None
            if preflight is not None:
                return preflight
            route, context = self._admit(inbound)
            if route.identify:
                request.readmit = partial(self._admission.readmit, inbound, context)
            if hdrs.EXPECT in request.headers:
                await _go_on(request)
            return await route.handler(request, inbound, context)
        except Refused as refused:
            self._audit.refused(inbound, refused.deny, context)
            return self._refusal(request, inbound, refused.deny)
        except StoreError as error:
            log.critical("the store cannot be used: %s", error)
            deny = Deny(Reason.STORE_UNAVAILABLE, "The gateway cannot keep its records now: try again later.")
            return self._refusal(request, inbound, deny)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if request.transport is None or isinstance(error, ConnectionError):
                log.debug("the caller of request %s has gone: %s", inbound.request_id, error)
            else:
                log.exception("request %s failed", inbound.request_id)
            return self._refusal(request, inbound, _internal_error(inbound))

    def _let_in(self, request: GatewayRequest) -> None:
        """Look at how the request is written, and at the page that it comes from. Raises Refused."""
        refusal = self._readings.refusal(request)
        if refusal is not None:
            raise Refused(refusal)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and self._cors.allows(origin):
            request.page_origin = origin

    def _admit(self, inbound: Inbound) -> tuple[Route, ClientContext]:
        """What answers the request, and who is calling. Raises Refused."""
        methods = self._routes.methods(inbound.path)
        route = methods.get(inbound.method) or methods.get("*")
        if route is None:
            raise Refused(_no_route(inbound, methods))
        if not route.identify:
            return route, ANONYMOUS
        admitted = self._admission.admit(inbound, route.needed, chooses_tenant=route.chooses_tenant)
        if isinstance(admitted, Deny):
            raise Refused(admitted)
        if admitted.anonymous and inbound.peer is not None:
            self._audit.refused(inbound, UNMAPPED)  # it goes on as anyone may; but somebody should know
        return route, admitted

    def unreadable(
        self, request: GatewayRequest, status: int, error: BaseException | None
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, or too large to be read."""
        inbound = self._inbound(request)
        request.request_id = inbound.request_id
        request.is_readable = False
        if status >= 500:
            log.error("request %s failed", inbound.request_id, exc_info=error)
            deny = _internal_error(inbound)
        else:
            deny = _LATE if status == 408 else _UNREADABLE
            self._audit.refused(inbound, deny)
        response = self._problems.response(deny, inbound.request_id)
        response.force_close()
        return response

    def _refusal(self, request: GatewayRequest, inbound: Inbound, deny: Deny) -> web.StreamResponse:
        response = self._problems.response(deny, inbound.request_id)
        lasting = inbound.peer is not None and not inbound.peer.handed_over and deny.reason in _LASTING
        unread = not request.content.is_eof() or request.content.exception() is not None
        if lasting or unread or deny is NO_CERTIFICATE or deny.reason is Reason.AMBIGUOUS_REQUEST:
            response.force_close()  # what follows on this connection is not worth reading
        return response

    def _inbound(self, request: GatewayRequest) -> Inbound:
        headers = request.headers or _NO_HEADERS
        connection = request.protocol
        if not isinstance(connection, Connection):
            raise TypeError("a connection that the edge did not make")
        given = headers.get("X-Request-ID")
        user_agent = headers.get(hdrs.USER_AGENT)
        return Inbound(
            request_id=given if given and _REQUEST_ID.fullmatch(given) else self._new_request_id(),
            method=request.method,
            path=_text(request.raw_path.partition("?")[0]),
            address=connection.address,
            user_agent=None if user_agent is None else _text(user_agent[:256]),
            peer=connection.peer,
            authorization=tuple(headers.getall(hdrs.AUTHORIZATION, ())),
            api_keys=tuple(headers.getall("X-API-Key", ())),
            started=self._monotonic(),
            tenant_id=headers.get("X-Tenant-ID"),
        )

    def _new_request_id(self) -> str:
        """Unique, not secret: which process, and its how-manieth request."""
        return f"{self._process}{next(self._requests):08x}"


async def _go_on(request: GatewayRequest) -> None:
    """Have the caller send the body that it holds back (RFC 9110 section 10.1.1). Raises Refused."""
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        raise Refused(Deny(Reason.BAD_REQUEST, "Only 100-continue can be expected."))
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


def _no_route(inbound: Inbound, methods: Mapping[str, Route]) -> Deny:
    if methods:
        detail = f"{inbound.path} does not answer {inbound.method}."
        return Deny(Reason.METHOD_NOT_ALLOWED, detail, allow=tuple(sorted(methods)))
    return Deny(Reason.NOT_FOUND, "There is nothing here: MCP is at /mcp, tokens are at /auth/token.")


def _internal_error(inbound: Inbound) -> Deny:
    return Deny(Reason.INTERNAL_ERROR, f"Something went wrong; the log names request {inbound.request_id}.")


def _text(value: str) -> str:
    """What a caller wrote, as text that can be written on: aiohttp hands over raw bytes as lone surrogates."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


async def read_body(request: GatewayRequest, limit: int) -> bytes:
    """The whole body, at most ``limit`` bytes, within the time for bodies. Raises Refused."""
    length = request.content_length
    if length is not None and length > limit:
        raise Refused(_too_large(limit))
    content = request.content
    if content.is_eof():  # it came with the headers: the usual case
        body = content.read_nowait()
        if len(body) > limit:
            raise Refused(_too_large(limit))
        return body
    pieces = bytearray()
    try:
        async with asyncio.timeout(request.body_timeout):
            while piece := await content.readany():
                pieces += piece
                if len(pieces) > limit:
                    raise Refused(_too_large(limit))
    except TimeoutError:
        raise Refused(late_body(request)) from None
    except (web.RequestPayloadError, ConnectionError):
        raise Refused(BROKEN_BODY) from None
    if request.readmit is not None:  # the head let the caller in; what counts is what holds now
        request.readmit()
    return bytes(pieces)


BROKEN_BODY: Final = Deny(Reason.BAD_REQUEST, "The body is malformed, or ended before it was whole.")


def late_body(request: GatewayRequest) -> Deny:
    """The body took too long."""
    return Deny(Reason.REQUEST_TIMEOUT, f"The body must arrive within {request.body_timeout:.0f} s.")


def _too_large(limit: int) -> Deny:
    return Deny(Reason.BODY_TOO_LARGE, f"The body may have at most {limit} bytes.")
