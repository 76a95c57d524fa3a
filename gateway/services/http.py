"""HTTP services behind the gateway: forwarded as they are, but for what is the gateway's own business.

The path and the query go on unchanged. The caller's credentials, hop-by-hop fields and whatever claims to speak for
the connection or its caller (``X-Forwarded-*``, ``Client-Cert``, ``X-Auth-Request-*``) stay here. A change (POST, PUT, PATCH, DELETE)
has its intent in the audit before it is forwarded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from aiohttp import hdrs, web

from gateway.audit import Audit, Pending
from gateway.config.values import ServiceSettings
from gateway.description import Description, described
from gateway.edge.client_cert import CLIENT_CERT, client_cert
from gateway.edge.handler import BROKEN_BODY, GatewayRequest, Route, late_body
from gateway.model import ADMINISTRATION, ClientContext, Deny, Inbound, Reason, Refused
from gateway.outbound.client import HttpClient, OutboundError, Response
from gateway.spelling import is_plain_path
from persistence.records import AuditStatus

READS: Final = ("GET", "HEAD", "OPTIONS")
WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")
MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes that a caller may send to a service."""
HELD_BACK: Final = 64 * 1024

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110 section 7.6.1, and Expect: who asked for 100 Continue has had it from the gateway (section 10.1.1)."""
_OURS: Final = frozenset(
    {
        "host", "content-length", "authorization", "x-api-key", "forwarded", "via", "x-request-id",
        "client-ip", "front-end-https", "proxy-client-ip", "true-client-ip", "x-host", "x-http-destinationurl", "x-https",
        "x-scheme", "x-url-scheme",
    }
)  # fmt: skip
"""What the gateway alone says, and what others say of the connection."""
_SPEAKS_FOR_US: Final = (
    "ostiary-",
    "x-forwarded", "x-client-", "client-cert", "x-ssl-", "ssl-", "remote-", "x-remote-", "x-envoy-", "x-real-",
    "x-cluster-client-", "x-original-", "x-originating-", "z-forwarded", "x-proxyuser-", "x-arr-", "wl-proxy-", "cf-",
    "fastly-", "x-azure-", "x-amzn-mtls-", "x-amzn-oidc-", "x-goog-authenticated-", "x-goog-iap-", "x-appengine-",
    "x-ms-client-principal", "x-ms-token-", "x-auth-request-", "x-authenticated-", "x-webauth-", "x-authentik-",
    "x-pomerium-", "x-vouch-", "tailscale-user-",
)  # fmt: skip
"""How the names begin by which gateways and proxies tell services of a connection and its caller."""
_OVERRIDES: Final = frozenset(
    {
        "x-http-method", "x-http-method-override", "x-method-override", "x-original-method",
        "x-original-url", "x-original-uri", "x-original-path", "x-rewrite-url", "x-override-url",
    }
)  # fmt: skip
"""By these some frameworks take another method or path than the request's own, on which was decided."""
_AS_VARIABLES: Final = str.maketrans(dict.fromkeys("!#$%&'*+.^_`|~", "-"))
"""CGI and its heirs make variables of names, and more than ``-`` the same there (PHP: ``.``; RFC 9110 section 17.10)."""


class ServiceProxy:
    """One service."""

    def __init__(self, settings: ServiceSettings, client: HttpClient, audit: Audit) -> None:
        self._settings = settings
        self._client = client
        self._audit = audit

    @property
    def routes(self) -> Mapping[str, Route]:
        """What each method needs."""
        read = Route(self.forward, self._settings.read or ADMINISTRATION)
        write = Route(self.forward, self._settings.write or ADMINISTRATION)
        return dict.fromkeys(READS, read) | dict.fromkeys(WRITES, write)

    @described(Description("Forwarded to the service.", {}, forwarded=True))
    async def forward(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        """The service's answer. Raises Refused."""
        if not is_plain_path(inbound.path):
            raise Refused(
                Deny(
                    Reason.AMBIGUOUS_REQUEST,
                    "Write the path in its plain form: encode only what must be, and leave out dot segments, "
                    "empty segments, encoded slashes and ;.",
                )
            )
        if not _OVERRIDES.isdisjoint(map(_compared, request.headers)):
            raise Refused(
                Deny(
                    Reason.AMBIGUOUS_REQUEST,
                    "A header names another method or path: send the request as it is meant.",
                )
            )
        if hdrs.UPGRADE in request.headers:
            raise Refused(
                Deny(Reason.NOT_IMPLEMENTED, "WebSocket is not forwarded: use an ordinary request.")
            )
        if (request.content_length or 0) > MAX_BODY:
            raise Refused(Deny(Reason.BODY_TOO_LARGE, f"The body may have at most {MAX_BODY} bytes."))
        if inbound.method in READS:
            return await self._pass_on(request, inbound, None)
        intent = self._audit.entry(
            "data_mutation",
            AuditStatus.OK,
            inbound,
            context,
            upstream=self._settings.name,
            target=inbound.path,
        )
        pending = await self._audit.begin(intent, inbound.started)
        try:
            return await self._pass_on(request, inbound, pending)
        except Refused as refused:
            timed_out = refused.deny.reason in {Reason.UPSTREAM_TIMEOUT, Reason.REQUEST_TIMEOUT}
            pending.finish(AuditStatus.TIMEOUT if timed_out else AuditStatus.ERROR, refused.deny.reason)
            raise
        except ConnectionError:  # the caller is gone
            pending.finish(AuditStatus.CANCELLED)
            raise
        finally:
            pending.finish(AuditStatus.CANCELLED, Reason.INTERRUPTED)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    async def _pass_on(
        self, request: GatewayRequest, inbound: Inbound, pending: Pending | None
    ) -> web.StreamResponse:
        try:
            async with asyncio.timeout(self._settings.timeout) as deadline:
                body = await _begun(request, deadline, self._settings.timeout)
                answer = await self._client.send(
                    inbound.method,
                    request.raw_path,
                    _request_headers(request, inbound) + self._told(inbound),
                    body,
                )
        except TimeoutError:
            raise Refused(
                Deny(Reason.UPSTREAM_TIMEOUT, f"{self._settings.name} did not answer in time.")
            ) from None
        except ConnectionError:  # the caller left in mid-body: nobody will read the answer
            if pending is not None:
                pending.finish(AuditStatus.CANCELLED)
            raise Refused(BROKEN_BODY) from None
        except OutboundError:
            raise Refused(
                Deny(Reason.UPSTREAM_UNAVAILABLE, f"{self._settings.name} cannot be reached now.")
            ) from None
        try:
            return await self._bring_back(request, answer, pending)
        finally:
            answer.close()

    def _told(self, inbound: Inbound) -> list[tuple[str, str]]:
        """The caller's certificate, for a service that wants it (RFC 9440 section 2.2)."""
        if not self._settings.client_cert or inbound.peer is None:
            return []
        return [(CLIENT_CERT, client_cert(inbound.peer))]

    async def _bring_back(
        self, request: GatewayRequest, answer: Response, pending: Pending | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status)
        _response_headers(answer, response)
        try:
            await response.prepare(request)
            async with asyncio.timeout(None) as deadline:
                while True:
                    deadline.reschedule(asyncio.get_running_loop().time() + self._settings.timeout)
                    piece = await answer.chunk()
                    if not piece:
                        break
                    if request.readmit is not None:
                        request.readmit()
                    await response.write(piece)
        except (OutboundError, TimeoutError, Refused) as error:
            if pending is not None:
                reason = error.deny.reason if isinstance(error, Refused) else Reason.UPSTREAM_INVALID
                pending.finish(AuditStatus.ERROR, reason)
            response.force_close()
            if request.transport is not None:
                request.transport.abort()  # half an answer must not look like a whole one
            return response
        if pending is not None:
            ok = answer.status < 400
            pending.finish(
                AuditStatus.OK if ok else AuditStatus.ERROR, None if ok else f"status_{answer.status}"
            )
        await response.write_eof()
        return response


async def _begun(
    request: GatewayRequest, deadline: asyncio.Timeout, seconds: float
) -> AsyncIterator[bytes] | bytes | None:
    """The body, to be sent on. Raises as ``_body``.

    One in chunks is held back until it is whole or has ``HELD_BACK`` bytes: a short one that turns out to be
    malformed goes nowhere.
    """
    if not request.body_exists:
        return None
    body = _body(request, deadline, seconds)
    if request.content_length is not None:
        return body
    begun = bytearray()
    async for piece in body:
        begun += piece
        if len(begun) >= HELD_BACK:
            return _joined(bytes(begun), body)
    return bytes(begun)


async def _joined(begun: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begun
    async for piece in rest:
        yield piece


async def _body(request: GatewayRequest, deadline: asyncio.Timeout, seconds: float) -> AsyncIterator[bytes]:
    """The caller's body as it comes, within the limits of size and time.

    The service's ``deadline`` rests while the caller is waited for, and is ``seconds`` away again after that; the
    caller's own time runs only then. Raises Refused, and ConnectionError once the caller is gone.
    """
    now = asyncio.get_running_loop().time
    size, left = 0, request.body_timeout
    while True:
        deadline.reschedule(None)
        asked = now()
        piece = await _piece(request, left)
        left -= now() - asked
        deadline.reschedule(now() + seconds)
        if not piece:
            return
        if request.readmit is not None:
            request.readmit()
        size += len(piece)
        if size > MAX_BODY:
            raise Refused(Deny(Reason.BODY_TOO_LARGE, f"The body may have at most {MAX_BODY} bytes."))
        yield piece


async def _piece(request: GatewayRequest, seconds: float) -> bytes:
    """What has come of the caller's body, once anything has; empty at its end. Raises as ``_body``."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await request.content.readany()
    except web.RequestPayloadError:
        raise Refused(BROKEN_BODY) from None
    except OSError as error:  # TimeoutError is one, too
        if limit.expired():
            raise Refused(late_body(request)) from None
        raise ConnectionResetError("The caller is gone.") from error


def _compared(name: str) -> str:
    """A field's name as those are compared that stay here: without case, and every sign in it as a ``-``."""
    return name.lower().translate(_AS_VARIABLES)


def _request_headers(request: GatewayRequest, inbound: Inbound) -> list[tuple[str, str]]:
    named = {
        _compared(name.strip())
        for value in request.headers.getall(hdrs.CONNECTION, ())
        for name in value.split(",")
    }
    headers = [
        (name, value)
        for name, value in request.headers.items()
        if (compared := _compared(name)) not in _HOP_BY_HOP
        and compared not in _OURS
        and compared not in named
        and not compared.startswith(_SPEAKS_FOR_US)
    ]
    if request.content_length is not None:
        headers.append(("Content-Length", str(request.content_length)))
    headers += [("X-Request-ID", inbound.request_id), ("Via", "1.1 ostiary")]
    return headers


_OF_THE_HOST: Final = frozenset(
    {"server", "x-request-id", "date", "strict-transport-security", "alt-svc", "public-key-pins", "expect-ct"}
)
"""What an answer says of the whole host, which is the gateway's; what pages of other origins may read is ``[cors]``'s matter."""


def _response_headers(answer: Response, response: web.StreamResponse) -> None:
    fields = list(answer.headers.items())
    named = {
        name.strip().lower()
        for key, value in fields
        if key.lower() == "connection"
        for name in value.split(",")
    }
    for name, value in fields:
        lower = name.lower()
        if (
            lower in _HOP_BY_HOP
            or lower in named
            or lower in _OF_THE_HOST
            or lower.startswith("access-control-")
        ):
            continue
        response.headers.add(name, value)
