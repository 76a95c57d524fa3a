"""The configuration: what ``ostiary.toml`` and the environment say, as frozen values.

``gateway.config.reader`` fills these from TOML and ``OSTIARY_<SECTION>_<KEY>`` and reports every error at once.
Durations are in seconds, sizes in bytes, paths absolute. The defaults here are the defaults of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from certs.contexts import ClientCertificates, ExpiredCrl
from certs.identity import DEFAULT_RULES, IdentityRule


class ConfigError(Exception):
    """The configuration cannot be used. ``problems`` has one line for each mistake, with its place and its remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Algorithm(StrEnum):
    """Signature algorithms of access tokens (RFC 7518 section 3.1, RFC 8037)."""

    HS256 = "HS256"
    RS256 = "RS256"
    PS256 = "PS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"


class Sessions(StrEnum):
    """Whom an upstream session serves."""

    CLIENT = "client"
    SHARED = "shared"


class Anonymous(StrEnum):
    """What an MCP request without credentials gets."""

    PUBLIC = "public"
    CHALLENGE = "challenge"


class Pinning(StrEnum):
    """What becomes of a tool whose definition is not the approved one."""

    OFF = "off"
    WARN = "warn"
    HOLD = "hold"


class Denied(StrEnum):
    """How a denied tool is answered: as if it did not exist, or by 403 with the scopes that it needs."""

    HIDE = "hide"
    CHALLENGE = "challenge"


class OnAuditFailure(StrEnum):
    """What happens to an action that cannot be audited."""

    REFUSE = "refuse"
    LOG = "log"


class Register(StrEnum):
    """Who may make an account."""

    OFF = "off"
    INVITATION = "invitation"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """``[server]``"""

    host: str = "127.0.0.1"
    port: int = 8443
    public_url: str = "https://localhost:8443"
    drain: float = 30.0
    trusted_hosts: tuple[str, ...] = ()
    trusted_terminators: tuple[IPv4Network | IPv6Network, ...] = ()
    """From where TLS terminators connect that may hand over their callers' certificates."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """``[tls]`` and ``[[tls.client_id]]``. ``crl`` may name a file that is not there."""

    certificate: Path
    private_key: Path
    client_ca: Path | None
    client_certificates: ClientCertificates = ClientCertificates.OPTIONAL
    crl: Path | None = None
    minimum_version: str = "1.3"
    client_id: tuple[IdentityRule, ...] = DEFAULT_RULES
    crl_expired: ExpiredCrl = ExpiredCrl.REFUSE


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens, or did: a secret, or a private key as PEM. It is never shown."""

    algorithm: Algorithm
    material: str = field(repr=False)
    verify_until: int | None = None
    """Seconds since the epoch: when the last token that it signed expires. None: it signs."""


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """``[tokens]``. ``secret`` is the text of the secret, or of the private key; it is never shown."""

    secret: str = field(repr=False)
    algorithm: Algorithm = Algorithm.HS256
    key_file: Path | None = None
    """Where the key is; None: in an environment variable."""
    retired_file: Path | None = None
    """Where keys are that sign no more."""
    retired: tuple[SigningKey, ...] = ()
    issuer: str = "https://localhost:8443"
    audience: str = "https://localhost:8443/mcp"
    access_ttl: float = 3600.0
    refresh_ttl: float = 7 * 86400.0
    leeway: float = 0.0


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """``[storage]``"""

    path: Path
    backend: str = "json"


REDACTABLE: Final = ("address", "user_agent", "target", "tool_name", "arguments_digest")
"""The fields of an audit entry of which a rule may keep something out."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """``[[audit.redact]]``: what of a field is not written."""

    field: str
    match: re.Pattern[str] | None
    """Each match is replaced; None: the whole value is left out."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """``[audit]``"""

    on_failure: OnAuditFailure = OnAuditFailure.REFUSE
    checkpoint_file: Path | None = None
    """Where the signed checkpoint is published, too: on another disk."""
    redact: tuple[Redaction, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """``sandbox`` of a stdio upstream. None: no limit of that kind."""

    memory: int | None = None
    open_files: int | None = None
    processes: int | None = None
    user: str | None = None
    read: tuple[Path, ...] | None = None
    """What it may read and execute beside the system's own folders; None, as ``write``: whatever its user may."""
    write: tuple[Path, ...] | None = None
    """What it may read, write and execute."""


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """``oauth`` of an upstream: how the gateway gets tokens for it (RFC 6749 section 4.4)."""

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamCredentials:
    """With what the gateway proves itself, and may name its caller, to one upstream."""

    header: tuple[str, str] | None = field(default=None, repr=False)
    """A field that is sent with every request."""
    oauth: OAuthClient | None = None
    ca: Path | None = None
    """Whose certificates are trusted, in place of the system's."""
    client_certificate: Path | None = None
    client_key: Path | None = None
    assert_identity: bool = False
    identity_secret: str | None = field(default=None, repr=False)
    """What signs the assertion, shared with that upstream alone; None: the gateway's own asymmetric key."""


@dataclass(frozen=True, slots=True)
class HttpUpstream:
    """``[[upstreams]]`` with ``transport = "http"``: an MCP server over streamable HTTP."""

    name: str
    url: str
    prefix: str = ""
    timeout: float = 30.0
    max_concurrency: int = 64
    sessions: Sessions = Sessions.CLIENT
    credentials: UpstreamCredentials = UpstreamCredentials()
    client_cert: bool = False
    """Whether it is told the client's certificate (RFC 9440)."""


@dataclass(frozen=True, slots=True)
class StdioUpstream:
    """``[[upstreams]]`` with ``transport = "stdio"``: an MCP server that is our child process."""

    name: str
    command: tuple[str, ...]
    folder: Path
    """The working directory: the configuration's folder."""
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """All that the child sees: PATH, HOME and LANG of the gateway, ``env``, and what ``env_from`` names."""
    sandbox: SandboxSettings = SandboxSettings()
    prefix: str = ""
    timeout: float = 30.0
    max_concurrency: int = 64
    sessions: Sessions = Sessions.SHARED


UpstreamSettings = HttpUpstream | StdioUpstream


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One of ``[[tools]]``, ``[[prompts]]``, ``[[resources]]``. ``permissions`` empty: public."""

    match: str
    pattern: re.Pattern[str]
    """``match``, a case-sensitive shell pattern, compiled for a full match."""
    permissions: tuple[str, ...] = ()
    as_read: re.Pattern[str] | None = None
    """Of a rule for URIs: ``pattern`` for what their readers make of them."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """``[[services]]``: an HTTP service behind the gateway. Empty permissions: administrators only."""

    name: str
    prefix: str
    url: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    timeout: float = 30.0
    client_cert: bool = False
    """Whether it is told the client's certificate (RFC 9440)."""


@dataclass(frozen=True, slots=True)
class McpSettings:
    """``[mcp]``"""

    anonymous: Anonymous = Anonymous.PUBLIC
    authorization_servers: tuple[str, ...] = ()
    denied: Denied = Denied.HIDE
    pinning: Pinning = Pinning.OFF
    server_logs: Path = Path("server-logs")
    """The folder with what each stdio server says on its standard error."""


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """``[accounts]``"""

    register: Register = Register.OFF
    lockout_after: int = 10
    bcrypt_cost: int = 12
    """A hash of a lower cost is made anew when its password is used."""
    refresh_grace: float = 10.0
    mfa_required_roles: tuple[str, ...] = ()
    """Who has one of these signs in with a second factor."""
    mfa_key_file: Path = Path("mfa.key")


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """``[limits]``. 0 requests a minute: no limit."""

    requests_per_minute: int = 60000
    burst: int = 2000
    login_per_minute: int = 10
    connections: int = 10_000
    connections_per_address: int = 5_000
    handshake_timeout: float = 10.0
    header_timeout: float = 10.0
    """From a request's first byte to the end of its head."""
    body_timeout: float = 30.0
    """For the whole body."""
    send_timeout: float = 30.0
    """How long a client may leave unread what it was sent."""
    idle_timeout: float = 75.0


@dataclass(frozen=True, slots=True)
class CorsSettings:
    """``[cors]``: which pages of other origins may read answers in a browser (WHATWG Fetch, section 3.2)."""

    origins: tuple[str, ...] = ()
    """``https://app.example.com``: scheme, host, and port where it is not the scheme's own."""
    headers: tuple[str, ...] = ()
    """Request fields allowed beside those that the gateway itself reads."""
    max_age: float = 600.0


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a gateway is told. ``roles`` maps a role to its permissions."""

    file: Path
    server: ServerSettings
    tls: TlsSettings
    tokens: TokenSettings
    storage: StorageSettings
    audit: AuditSettings = AuditSettings()
    roles: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"admin": ("*:*",)})
    upstreams: tuple[UpstreamSettings, ...] = ()
    tools: tuple[AccessRule, ...] = ()
    prompts: tuple[AccessRule, ...] = ()
    resources: tuple[AccessRule, ...] = ()
    services: tuple[ServiceSettings, ...] = ()
    mcp: McpSettings = McpSettings()
    accounts: AccountSettings = AccountSettings()
    limits: LimitSettings = LimitSettings()
    cors: CorsSettings = CorsSettings()
    secret_files: tuple[Path, ...] = ()
    """Where the upstreams' credentials are."""
