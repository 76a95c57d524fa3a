"""Who is who in a run: one authority, a server and a client certificate (P-256), and a token for peers that issue none."""

from __future__ import annotations

import secrets
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import jwt

from certs.authority import Authority

CLIENT: Final = "bench"
"""The client's name: common name of its certificate, ``client_id`` of its tokens."""
CLIENT_DNS: Final = "bench.invalid"
"""The DNS name in the client's certificate, for peers that read no common name."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, PEM files."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class Identities:
    """The files of a run, and the secret that peers verify tokens with."""

    ca: Path
    server: KeyPair
    client: KeyPair
    secret: str = field(repr=False)

    def token(self) -> str:
        """An access token like the gateway's own, for peers that only verify (RFC 9068)."""
        now = int(time.time())
        claims = {
            "iss": "https://localhost:8443",
            "aud": "https://localhost:8443/mcp",
            "sub": CLIENT,
            "client_id": CLIENT,
            "username": CLIENT,
            "roles": ["caller"],
            "scope": "bench:call",
            "jti": secrets.token_urlsafe(16),
            "type": "access",
            "iat": now,
            "nbf": now,
            "exp": now + 86400,
            "auth_time": now,
            "cnf": {"x5t#S256": secrets.token_urlsafe(32)},
        }
        return jwt.encode(claims, self.secret, algorithm="HS256", headers={"typ": "at+jwt", "kid": "bench"})

    def context(self) -> ssl.SSLContext:
        """A TLS client that trusts the authority and presents the client's certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.client.certificate, self.client.private_key)
        return context


def create(folder: Path) -> Identities:
    """Make an authority, a server for localhost and 127.0.0.1, and the client."""
    now = time.time()
    authority = Authority.create(folder, now=now)
    server = KeyPair(folder / "server.pem", folder / "server.key")
    authority.issue_server(
        names=["localhost", "127.0.0.1"],
        certificate=server.certificate,
        private_key=server.private_key,
        now=now,
    )
    authority.issue_client(CLIENT, sans=[CLIENT_DNS], out=folder, now=now)
    client = KeyPair(folder / f"{CLIENT}.pem", folder / f"{CLIENT}.key")
    return Identities(folder / "ca.pem", server, client, secrets.token_urlsafe(48))
