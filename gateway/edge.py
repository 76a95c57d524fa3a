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
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy

from certs.identity import CertificateError, PeerIdentity, parse_peer
from gateway.admission import Admission
from gateway.audit import Audit
from gateway.authn import UNMAPPED
from gateway.listener import TlsRefused
from gateway.model import ANONYMOUS, ClientContext, Deny, Inbound, Reason, Refused
from gateway.problems import Problems
from gateway.reply import GatewayRequest
from persistence.records import StoreError

__all__ = ["BODY_SECONDS", "Connection", "Edge", "GatewayRequest", "Handler", "Route", "Routes", "read_body"]

log = logging.getLogger("ostiary.errors")

BODY_SECONDS: Final = 30.0
"""How long a request's body may take to arrive."""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,128}")
_LASTING: Final = frozenset(
    {Reason.CERTIFICATE_EXPIRED, Reason.CERTIFICATE_REVOKED, Reason.CLIENT_DISABLED, Reason.CLIENT_UNKNOWN}
)
"""What a certificate's holder will be told again, whatever else comes on the connection."""
_ANSWERS_ANYONE: Final = ("/health/", "/.well-known/")
_SINGLETONS: Final = (
    hdrs.HOST,
    hdrs.CONTENT_LENGTH,
    hdrs.CONTENT_TYPE,
    hdrs.TRANSFER_ENCODING,
    hdrs.ORIGIN,
    hdrs.USER_AGENT,
    "X-Request-ID",
    "Mcp-Session-Id",
    "MCP-Protocol-Version",
    "Last-Event-ID",
)
_NO_HEADERS: Final = CIMultiDictProxy(CIMultiDict[str]())
"""For a request that could not be read: aiohttp gives it an ordinary dictionary."""


class Connection(RequestHandler):
    """One client connection; it remembers who is at the other end."""

    __slots__ = ("address", "edge", "on_lost", "peer")

    def __init__(self, edge: Edge, server: web.Server, *, address: str, **options: Any) -> None:
        super().__init__(server, access_log=None, auto_decompress=False, **options)  # type: ignore[arg-type]
        self.edge = edge
        self.address = address
        self.peer: PeerIdentity | None = None
        """The client certificate that the handshake verified."""
        self.on_lost: Callable[[], object] | None = None
        """Told when the client has gone, by whoever wants to know at the time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        super().connection_made(transport)
        secured = transport.get_extra_info("ssl_object")
        der = secured.getpeercert(binary_form=True)
        try:
            self.peer = None if der is None else parse_peer(der)
        except CertificateError as error:
            self.edge.refused_certificate(self.address, str(error))
            self.force_close()
        if secured.session_reused:  # TLS 1.2 by session id: its certificate was not looked at again
            self.edge.refused_certificate(self.address, "session_resumed")
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """What aiohttp's parser refuses is answered in our form, too."""
        if request.writer.output_size > 0:
            raise ConnectionError("the reply has begun already")
        if not isinstance(request, GatewayRequest):
            raise TypeError("a request that the edge did not make")
        return self.edge.unreadable(request, status, exc)


Handler = Callable[[GatewayRequest, Inbound, ClientContext], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a path and method, and what its caller needs."""

    handler: Handler
    needed: tuple[str, ...] = ()
    identify: bool = True
    """False: the handler answers anyone who can connect, whatever credentials come along."""


class Routes:
    """The path table: whole paths first, then the longest prefix (which ends in ``/``)."""

    def __init__(
        self, exact: Mapping[str, Mapping[str, Route]], prefixes: Mapping[str, Mapping[str, Route]]
    ) -> None:
        """Each maps a path to its methods; ``*`` stands for every method."""
        self._exact = exact
        self._prefixes = sorted(prefixes.items(), key=lambda item: -len(item[0]))

    def items(self) -> Iterator[tuple[str, str, Route]]:
        """Every path (a prefix ends in ``/``) and method, with what answers it."""
        for path, methods in (*self._exact.items(), *self._prefixes):
            for method, route in methods.items():
                yield path, method, route

    def methods(self, path: str) -> Mapping[str, Route]:
        """The methods of that path; empty: there is no such path."""
        methods = self._exact.get(path)
        if methods is not None:
            return methods
        for prefix, methods in self._prefixes:
            if path.startswith(prefix):
                return methods
        return {}


class Edge:
    """The outermost handler."""

    def __init__(
        self,
        *,
        routes: Routes,
        admission: Admission,
        audit: Audit,
        problems: Problems,
        allowed_hosts: frozenset[str],
        tls_refused: TlsRefused,
        monotonic: Callable[[], float],
    ) -> None:
        self.refused_certificate = tls_refused
        """Told of a certificate that cannot be read."""
        self._routes = routes
        self._admission = admission
        self._audit = audit
        self._problems = problems
        self._allowed_hosts = allowed_hosts
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
            route, context = self._admit(request, inbound)
            if hdrs.EXPECT in request.headers:
                await _go_on(request)
            return await route.handler(request, inbound, context)
        except Refused as refused:
            self._audit.refused(inbound, refused.deny, context)
            return self._refusal(request, inbound, refused.deny)
        except StoreError as error:
            log.critical("the store cannot be written: %s", error)
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

    def _admit(self, request: GatewayRequest, inbound: Inbound) -> tuple[Route, ClientContext]:
        """What answers the request, and who is calling. Raises Refused."""
        refusal = self._well_formed(request)
        if refusal is not None:
            raise Refused(refusal)
        methods = self._routes.methods(inbound.path)
        route = methods.get(inbound.method) or methods.get("*")
        if route is None:
            raise Refused(_no_route(inbound, methods))
        if not route.identify:
            return route, ANONYMOUS
        admitted = self._admission.admit(inbound, route.needed)
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
        if status >= 500:
            log.error("request %s failed", inbound.request_id, exc_info=error)
            deny = _internal_error(inbound)
        else:
            deny = Deny(Reason.BAD_REQUEST, "This is not an HTTP request that the gateway can read.")
            self._audit.refused(inbound, Deny(Reason.AMBIGUOUS_REQUEST, deny.detail))
        response = self._problems.response(deny, inbound.request_id)
        response.force_close()
        return response

    def _refusal(self, request: GatewayRequest, inbound: Inbound, deny: Deny) -> web.StreamResponse:
        response = self._problems.response(deny, inbound.request_id)
        if (inbound.peer is not None and deny.reason in _LASTING) or not request.content.is_eof():
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
        )

    def _new_request_id(self) -> str:
        """Unique, not secret: which process, and its how-manieth request."""
        return f"{self._process}{next(self._requests):08x}"

    def _well_formed(self, request: GatewayRequest) -> Deny | None:
        """Refuse what another hop might read differently (RFC 9112 sections 3.2, 6.1 and 11.2)."""
        headers = request.headers
        target = request.raw_path
        if not target.startswith("/") or "#" in target or "\\" in target:
            return Deny(Reason.AMBIGUOUS_REQUEST, "The request target must be a path that starts with /.")
        for name in _SINGLETONS:
            if name in headers and len(headers.getall(name)) > 1:
                return Deny(Reason.AMBIGUOUS_REQUEST, f"{name} is there more than once.")
        encoding = headers.get(hdrs.TRANSFER_ENCODING)
        if encoding is not None and (
            request.version != HttpVersion11
            or encoding.lower() != "chunked"
            or hdrs.CONTENT_LENGTH in headers
        ):
            return Deny(Reason.AMBIGUOUS_REQUEST, "Only chunked, alone and in HTTP/1.1, is understood.")
        if "_" in " ".join(headers):
            return Deny(Reason.AMBIGUOUS_REQUEST, "A header's name has an underscore.")
        host = headers.get(hdrs.HOST)
        if host is None or not self._may_be_asked_as(host, target):
            return Deny(
                Reason.HOST_NOT_ALLOWED,
                "Use the gateway's own name, or add this one to [server] trusted_hosts.",
            )
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None and _host_name(origin.partition("://")[2]) not in self._allowed_hosts:
            return Deny(
                Reason.ORIGIN_NOT_ALLOWED,
                "Pages of this origin may not call: add it to [server] trusted_hosts.",
            )
        if hdrs.CONTENT_ENCODING in headers:
            return Deny(Reason.CONTENT_ENCODING, "Send the body as it is, without Content-Encoding.")
        return None

    def _may_be_asked_as(self, host: str, target: str) -> bool:
        """Whether the name is one of the gateway's; what is for everybody (load balancers, too) answers to any name."""
        name = _host_name(host)
        return name in self._allowed_hosts or (name is not None and target.startswith(_ANSWERS_ANYONE))


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


_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


@lru_cache(maxsize=256)
def _host_name(authority: str) -> str | None:
    """The name alone, lower case, of ``name:port`` or ``[::1]:port``; None where it is neither."""
    match = _HOST.fullmatch(authority)
    return match[1].strip("[]").lower() if match else None


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, at most ``limit`` bytes, within BODY_SECONDS. Raises Refused."""
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
        async with asyncio.timeout(BODY_SECONDS):
            while piece := await content.readany():
                pieces += piece
                if len(pieces) > limit:
                    raise Refused(_too_large(limit))
    except TimeoutError:
        raise Refused(
            Deny(Reason.REQUEST_TIMEOUT, f"The body must arrive within {BODY_SECONDS:.0f} s.")
        ) from None
    except (web.RequestPayloadError, ConnectionError):
        raise Refused(Deny(Reason.BAD_REQUEST, "The body ended before it was whole.")) from None
    return bytes(pieces)


def _too_large(limit: int) -> Deny:
    return Deny(Reason.BODY_TOO_LARGE, f"The body may have at most {limit} bytes.")
