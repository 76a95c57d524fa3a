"""Reads with what the gateway proves itself to an upstream, from files that nobody but their owner can read."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final

from gateway.config.secret import MAX_BYTES, owner_only, strong
from gateway.config.shapes import Table
from gateway.config.values import Algorithm, OAuthClient, UpstreamCredentials

_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~](?:[ -~]*[!-~])?)")
_RESERVED: Final = frozenset(
    {
        "host",
        "content-type",
        "content-length",
        "transfer-encoding",
        "connection",
        "accept",
        "expect",
        "upgrade",
    }
)
_NEEDS_TLS: Final = "is sent in the clear to another machine; write an https url"
_LOOPBACK: Final = re.compile(r"http://(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?(?:/.*)?")


def read_credentials(table: Table, url: str, algorithm: Algorithm, *, wanted: bool) -> UpstreamCredentials:
    """What an upstream over HTTP says of credentials. ``wanted`` False: no secret is read."""
    header = _header(table, url, wanted=wanted)
    oauth = _oauth(table, wanted=wanted)
    if oauth is not None and not _confidential(url):
        table.reject("oauth", f"its token {_NEEDS_TLS}")
    if oauth is not None and table.has("header_file"):
        table.reject("oauth", "stands beside header_file; keep one of the two")
    certificate, key = table.path("client_certificate"), table.secret_path("client_key")
    if (certificate is None) != (key is None):
        table.reject("client_key", "and client_certificate belong together; name both")
    ca = table.path("ca")
    if (ca or certificate) and not url.startswith("https://"):
        table.reject("ca" if ca else "client_certificate", "is of no use to this url; write an https url")
    _check_files(table, ca, certificate, key, wanted=wanted)
    asserting = table.flag("assert_identity")
    secret = _identity_secret(table, asserting=asserting, wanted=wanted)
    if asserting and secret is None and algorithm is Algorithm.HS256:
        remedy = "name an identity_secret_file for it, or choose an asymmetric [tokens] algorithm"
        table.reject(
            "assert_identity", f"would need the gateway's own HS256 secret at the upstream; {remedy}"
        )
    return UpstreamCredentials(header, oauth, ca, certificate, key, asserting, secret)


def _confidential(url: str) -> bool:
    return not url or url.startswith("https://") or _LOOPBACK.fullmatch(url) is not None


def _header(table: Table, url: str, *, wanted: bool) -> tuple[str, str] | None:
    file = table.secret_path("header_file")
    if file is None:
        return None
    if not _confidential(url):
        table.reject("header_file", f"its secret {_NEEDS_TLS}")
    if not wanted:
        return None
    made = f"write one line to it, such as Authorization: Bearer SECRET, and chmod 600 {file}"
    text = owner_only(table, "header_file", file, MAX_BYTES, made)
    if text is None:
        return None
    line = _FIELD.fullmatch(text.strip())
    if line is None or line[1].lower() in _RESERVED or line[1].lower().startswith("mcp-"):
        table.reject("header_file", f"{file} does not hold one header field of one's own; {made}")
        return None
    return line[1], line[2]


def _oauth(upstream: Table, *, wanted: bool) -> OAuthClient | None:
    table = upstream.table("oauth")
    if not table.keys():
        return None
    token_url = table.url("token_url", "")
    client_id = table.text("client_id", "")
    file = table.secret_path("client_secret_file")
    for key in ("token_url", "client_id", "client_secret_file"):
        if not table.has(key):
            table.reject(key, "is missing; client credentials (RFC 6749 section 4.4) need it")
    if not _confidential(token_url):
        table.reject("token_url", f"the client secret {_NEEDS_TLS}")
    secret: str | None = None
    if file is not None and wanted:
        made = f"write the secret to it, and chmod 600 {file}"
        secret = owner_only(table, "client_secret_file", file, MAX_BYTES, made)
        if secret is not None and not secret.strip():
            table.reject("client_secret_file", f"{file} is empty; {made}")
    scope = table.text("scope", "")
    table.close()
    return OAuthClient(token_url, client_id, (secret or "").strip(), scope)


def _check_files(
    table: Table, ca: Path | None, certificate: Path | None, key: Path | None, *, wanted: bool
) -> None:
    """Read them as they will be read, so that a fault is told at the start."""
    if not wanted:
        return
    try:
        if ca is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(ca))
    except (OSError, ValueError) as error:
        table.reject("ca", f"{ca} cannot be used ({_why(error)}); name a PEM file of certificates")
    if certificate is None or key is None:
        return
    if owner_only(table, "client_key", key, 32 << 10, "name the certificate's key") is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        remedy = "name a PEM certificate and the key that belongs to it, without a password"
        table.reject("client_certificate", f"{certificate} cannot be used ({_why(error)}); {remedy}")


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or "not readable")


def _no_password() -> str:
    """OpenSSL would ask for it on the terminal."""
    raise ValueError("the key has a password")


def _identity_secret(table: Table, *, asserting: bool, wanted: bool) -> str | None:
    file = table.secret_path("identity_secret_file")
    if file is None:
        return None
    if not asserting:
        table.reject("identity_secret_file", "is of no use without assert_identity = true")
    if not wanted:
        return ""
    made = (
        f'make one: python3 -c "import secrets; print(secrets.token_urlsafe(48))" > {file}; chmod 600 {file}'
    )
    text = owner_only(table, "identity_secret_file", file, MAX_BYTES, made)
    return (
        "" if text is None else strong(table, "identity_secret_file", f"the secret in {file}", text.strip())
    )
