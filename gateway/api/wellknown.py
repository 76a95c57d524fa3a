"""The documents that clients discover the gateway by (RFC 8414, RFC 9728, RFC 7517)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from gateway.config.values import Config
from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest, Handler
from gateway.model import ClientContext, Inbound

_AUTHENTICATION = ["client_secret_basic", "client_secret_post", "tls_client_auth"]


class AuthorizationServer(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 8414 section 2."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    introspection_endpoint: str
    jwks_uri: str
    response_types_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]
    introspection_endpoint_auth_methods_supported: list[str]
    tls_client_certificate_bound_access_tokens: bool


class ProtectedResource(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9728 section 2."""

    resource: str
    authorization_servers: list[str]
    bearer_methods_supported: list[str]
    tls_client_certificate_bound_access_tokens: bool


_SERVER = Description("Where tokens are issued, and how (RFC 8414).", {200: AuthorizationServer})
_RESOURCE = Description("Who issues tokens for a resource (RFC 9728).", {200: ProtectedResource})
_KEYS = Description("The public keys that verify tokens (RFC 7517).", {200: dict[str, list[dict[str, Any]]]})


class WellKnown:
    """Serves each document; all but the keys are made once."""

    def __init__(self, config: Config, upstreams: Sequence[str], jwks: Callable[[], dict[str, Any]]) -> None:
        """``jwks``: the public keys of now."""
        base = config.server.public_url.rstrip("/")
        servers = list(config.mcp.authorization_servers) or [config.tokens.issuer]
        self.documents: dict[str, Handler] = {
            "/.well-known/oauth-authorization-server": _document(_authorization_server(config, base)),
            "/.well-known/jwks.json": described(_KEYS)(_served(lambda: msgspec.json.encode(jwks()))),
            "/.well-known/oauth-protected-resource": _document(_resource(base, servers)),
            "/.well-known/oauth-protected-resource/mcp": _document(_resource(f"{base}/mcp", servers)),
        }
        """By path."""
        for name in upstreams:
            self.documents[f"/.well-known/oauth-protected-resource/mcp/{name}"] = _document(
                _resource(f"{base}/mcp/{name}", servers)
            )


def _authorization_server(config: Config, base: str) -> AuthorizationServer:
    return AuthorizationServer(
        issuer=config.tokens.issuer,
        token_endpoint=f"{base}/auth/token",
        revocation_endpoint=f"{base}/auth/revoke",
        introspection_endpoint=f"{base}/auth/introspect",
        jwks_uri=f"{base}/.well-known/jwks.json",
        response_types_supported=[],
        grant_types_supported=["password", "client_credentials", "refresh_token"],
        token_endpoint_auth_methods_supported=_AUTHENTICATION,
        revocation_endpoint_auth_methods_supported=_AUTHENTICATION,
        introspection_endpoint_auth_methods_supported=_AUTHENTICATION,
        tls_client_certificate_bound_access_tokens=True,
    )


def resource_identifiers(config: Config) -> frozenset[str]:
    """What a token may be asked for (RFC 8707): the audience, and every resource that a document here describes."""
    base = config.server.public_url.rstrip("/")
    upstreams = (f"{base}/mcp/{upstream.name}" for upstream in config.upstreams)
    # An empty path and "/" are the same (RFC 3986 section 6.2.3), and many clients write the latter.
    return frozenset({config.tokens.audience, base, f"{base}/", f"{base}/mcp", *upstreams})


def resource_metadata_url(public_url: str) -> str:
    """Where the document about ``/mcp`` is, for challenges (RFC 9728 section 5.1)."""
    return f"{public_url.rstrip('/')}/.well-known/oauth-protected-resource/mcp"


def _resource(identifier: str, servers: list[str]) -> ProtectedResource:
    """``identifier``: the URL of the document without its well-known part, or clients must not use it (RFC 9728, 3.3).

    So the document without a path, which MCP clients ask for last, is about the whole origin.
    """
    return ProtectedResource(
        resource=identifier,
        authorization_servers=servers,
        bearer_methods_supported=["header"],
        tls_client_certificate_bound_access_tokens=True,
    )


def _document(content: AuthorizationServer | ProtectedResource) -> Handler:
    body = msgspec.json.encode(content)
    description = _SERVER if isinstance(content, AuthorizationServer) else _RESOURCE
    return described(description)(_served(lambda: body))


def _served(body: Callable[[], bytes]) -> Handler:
    async def serve(
        _request: GatewayRequest, _inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        return web.Response(
            body=body(), headers={"Content-Type": "application/json", "Cache-Control": "public, max-age=300"}
        )

    return serve
