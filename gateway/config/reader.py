"""Reads ``ostiary.toml`` and the environment into a Config, and reports every mistake at once.

``OSTIARY_<SECTION>_<KEY>`` overrides a scalar of a plain section. What is on the contract's page but not built yet
loads where ignoring it is harmless, and refuses the start where it would weaken security.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from certs.contexts import ClientCertificates, ExpiredCrl
from gateway.config.backends import read_services, read_upstreams
from gateway.config.edge import read_cors, read_limits, read_networks
from gateway.config.identity_rules import read_identity_rules
from gateway.config.own_files import opened_up
from gateway.config.secret import read_keys
from gateway.config.shapes import (
    PERMISSION,
    PERMISSION_REMEDY,
    ROLE,
    VARIABLE,
    Document,
    Table,
    did_you_mean,
    is_host,
    url_problem,
)
from gateway.config.values import (
    REDACTABLE,
    AccessRule,
    AccountSettings,
    Algorithm,
    Anonymous,
    AuditSettings,
    Config,
    ConfigError,
    Denied,
    McpSettings,
    OnAuditFailure,
    Pinning,
    Redaction,
    Register,
    ServerSettings,
    StorageSettings,
    TlsSettings,
    TokenSettings,
)
from gateway.spelling import pattern_as_read

NOT_BUILT: Final = "is not built yet, and going on without it would be unsafe"

_OVERRIDDEN_BY_NOTHING: Final = frozenset({"roles", "upstreams", "tools", "prompts", "resources", "services"})
"""Tables whose keys are names of the user's own, and arrays."""
_MINIMUM_VERSION = re.compile(r"1\.[23]")
_DOCUMENTED_VARIABLES = re.compile(
    r"OSTIARY_(?:CONFIG|SECRET_KEY|DATABASE_URL|REDIS_URL|CA_PASSPHRASE|CA_PASSPHRASE_FILE|TOKEN|GATEWAY|CA|CERT|KEY|TEST_.*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """What commands on the store and on certificates need: no secret, so that they run where none is at hand."""

    file: Path
    storage: StorageSettings
    audit: AuditSettings
    tls: TlsSettings
    roles: Mapping[str, tuple[str, ...]]
    public_host: str
    """The host of ``public_url``."""
    accounts: AccountSettings


def read_config(file: Path, environment: Mapping[str, str]) -> Config:
    """The whole configuration, secrets included. Raises ConfigError with every problem."""
    return _read(file, environment, secrets=True, variables=True)


def read_token_settings(file: Path, environment: Mapping[str, str]) -> TokenSettings:
    """``[tokens]`` with its keys; the variables of child processes may be absent. Raises ConfigError."""
    return _read(file, environment, secrets=True, variables=False).tokens


def read_command_settings(file: Path, environment: Mapping[str, str]) -> CommandSettings:
    """As ``read_config``, but secrets and the variables of child processes may be absent. Raises ConfigError."""
    config = _read(file, environment, secrets=False, variables=False)
    public_host = urlsplit(config.server.public_url).hostname or "localhost"
    return CommandSettings(
        config.file, config.storage, config.audit, config.tls, config.roles, public_host, config.accounts
    )


def _read(file: Path, environment: Mapping[str, str], *, secrets: bool, variables: bool) -> Config:
    document = Document(Path(os.path.abspath(file)), environment)  # noqa: PTH100 - symbolic links stay as they are
    root = Table(document, "", document.load())
    server = _server(root)
    tokens = _tokens(root, server, secrets=secrets)
    roles = _roles(root)
    config = Config(
        file=document.file,
        server=server,
        tls=_tls(root, server, roles),
        tokens=tokens,
        storage=_storage(root),
        audit=_audit(root),
        roles=roles,
        upstreams=read_upstreams(root, tokens.algorithm, variables=variables),
        tools=_access_rules(root, "tools"),
        prompts=_access_rules(root, "prompts"),
        resources=_access_rules(root, "resources"),
        services=read_services(root),
        mcp=_mcp(root),
        accounts=_accounts(root, roles),
        limits=read_limits(root),
        cors=read_cors(root),
        secret_files=tuple(document.secret_files),
    )
    for place, what in opened_up(config):
        document.note(place, what)
    root.close()
    _check_overrides(document)
    if document.problems:
        raise ConfigError(document.problems)
    return config


def _section(root: Table, name: str) -> Table:
    """A plain section: its scalars can be overridden."""
    return root.table(name, override=f"OSTIARY_{name.upper()}_")


def _check_overrides(document: Document) -> None:
    known = document.known_overrides
    for variable in sorted(document.environment):
        if not variable.startswith("OSTIARY_") or variable in known | document.variables_in_use:
            continue
        if not _DOCUMENTED_VARIABLES.fullmatch(variable):
            shown = ascii(variable[:80])[1:-1]
            remedy = _meant_override(variable, known)
            document.problems.append(f"environment: {shown}: no such setting can be overridden; {remedy}")


def _meant_override(variable: str, known: Iterable[str]) -> str:
    """What to do about an override that is none: a key of the section that it names was meant, if that is one."""
    section = variable.removeprefix("OSTIARY_").partition("_")[0]
    if section.lower() in _OVERRIDDEN_BY_NOTHING:
        return f"write it in the file, under {section.lower()}, and unset it"
    near = did_you_mean(variable, [name for name in known if name.startswith(f"OSTIARY_{section}_")] or known)
    return near if near.startswith("did") else "unset it"


def _server(root: Table) -> ServerSettings:
    table = _section(root, "server")
    default = ServerSettings()
    host = table.text("host", default.host)
    if not is_host(host):
        table.reject("host", 'is not a host name or an address; write "127.0.0.1" or "0.0.0.0"')
    trusted = table.texts("trusted_hosts")
    if not all(is_host(name.strip("[]")) for name in trusted):
        table.reject("trusted_hosts", "must hold names alone; take out the scheme and the port")
    settings = ServerSettings(
        host=host,
        port=table.integer("port", default.port, 0, 65535),
        public_url=table.url("public_url", default.public_url, ("https",), origin=True),
        drain=table.seconds("drain", default.drain, "0s", "1h"),
        trusted_hosts=tuple(name.strip("[]").lower() for name in trusted),
        trusted_terminators=read_networks(table, "trusted_terminators"),
    )
    table.close()
    return settings


def _tls(root: Table, server: ServerSettings, roles: Mapping[str, tuple[str, ...]]) -> TlsSettings:
    table = _section(root, "tls")
    for key in ("certificate", "private_key"):
        if not table.has(key):
            table.reject(
                key,
                f"is missing; name a PEM file, such as certs/server.{'pem' if key == 'certificate' else 'key'}",
            )
    client_certificates = table.choice("client_certificates", ClientCertificates.OPTIONAL)
    client_ca = table.path("client_ca")
    if (
        client_ca is None
        and not table.has("client_ca")
        and client_certificates is not ClientCertificates.NONE
    ):
        remedy = 'name the CA\'s PEM file, or write client_certificates = "none"'
        table.reject("client_ca", f'is missing, but client_certificates is "{client_certificates}"; {remedy}')
    if server.trusted_terminators and client_certificates is ClientCertificates.NONE:
        remedy = 'write "optional" or "required", or take out [server] trusted_terminators'
        table.reject("client_certificates", f'is "none", but terminators prove themselves by one; {remedy}')
    settings = TlsSettings(
        certificate=table.path("certificate") or table.document.folder,
        private_key=table.path("private_key") or table.document.folder,
        client_ca=client_ca,
        client_certificates=client_certificates,
        crl=table.path("crl") or table.document.folder / "certs" / "crl.pem",
        minimum_version=table.matching("minimum_version", "1.3", _MINIMUM_VERSION, 'write "1.3" or "1.2"'),
        client_id=read_identity_rules(table, roles),
        crl_expired=table.choice("crl_expired", ExpiredCrl.REFUSE),
    )
    table.close()
    return settings


def _tokens(root: Table, server: ServerSettings, *, secrets: bool) -> TokenSettings:
    table = _section(root, "tokens")
    algorithm = table.choice("algorithm", Algorithm.HS256)
    keys = read_keys(table, algorithm, wanted=secrets)
    audience = table.url("audience", f"{server.public_url}/mcp")
    settings = TokenSettings(
        secret=keys.secret,
        algorithm=algorithm,
        key_file=keys.file,
        retired_file=keys.retired_file,
        retired=keys.retired,
        issuer=table.url("issuer", server.public_url, ("https",)),
        audience=audience,
        access_ttl=table.seconds("access_ttl", 3600.0, "1s", "30d"),
        refresh_ttl=table.seconds("refresh_ttl", 7 * 86400.0, "1s", "365d"),
        leeway=table.seconds("leeway", 0.0, "0s", "5m"),
    )
    table.close()
    return settings


def _storage(root: Table) -> StorageSettings:
    table = _section(root, "storage")
    backend = table.text("backend", "json")
    if backend == "postgres":
        table.reject("backend", f'"postgres" {NOT_BUILT}; write "json"')
    elif backend != "json":
        table.reject("backend", 'is not known; write "json"')
    for key in ("url_env", "redis_url_env"):
        variable = table.matching(key, "", VARIABLE, "name an environment variable")
        if variable:
            table.document.variable(variable)
            table.reject(key, f"{NOT_BUILT}; take it out")
    settings = StorageSettings(
        path=table.path("path") or table.document.folder / "persistence", backend=backend
    )
    table.close()
    return settings


def _audit(root: Table) -> AuditSettings:
    table = _section(root, "audit")
    settings = AuditSettings(
        on_failure=table.choice("on_failure", OnAuditFailure.REFUSE),
        checkpoint_file=table.path("checkpoint_file"),
        redact=_redactions(table),
    )
    table.close()
    return settings


def _redactions(audit: Table) -> tuple[Redaction, ...]:
    rules = []
    for table in audit.tables("redact", "audit.redact"):
        field = table.text("field", "")
        if field not in REDACTABLE:
            table.reject("field", f"is not one that can be redacted; {did_you_mean(field, REDACTABLE)}")
        match = table.regex("match")
        rules.append(Redaction(field, None if match is None else re.compile(match)))
        table.close()
    return tuple(rules)


def _roles(root: Table) -> dict[str, tuple[str, ...]]:
    table = root.table("roles")
    roles: dict[str, tuple[str, ...]] = {
        "admin": ("*:*",)
    }  # unless it is declared, else nobody could mend anything
    for name in table.keys():  # noqa: SIM118 - a Table is no dictionary
        if not ROLE.fullmatch(name):
            table.reject(name, 'is not a role name; use letters, digits, "_", "." and "-", 64 at most')
        permissions = table.texts(name)
        if not all(PERMISSION.fullmatch(permission) for permission in permissions):
            table.reject(name, f"holds what is not a permission; {PERMISSION_REMEDY}")
        roles[name] = permissions
    return roles


def _access_rules(root: Table, name: str) -> tuple[AccessRule, ...]:
    rules = []
    for table in root.tables(name, name):
        match = table.text("match", "")
        if not table.has("match"):
            table.reject("match", 'is missing; write a shell pattern, such as "files_*"')
        permissions = table.permissions("permissions")
        public = table.has("access")
        if table.text("access", "public") != "public":
            table.reject("access", 'is not known; write "public", or permissions instead')
        if public == table.has("permissions"):
            both = "both are given" if public else "neither is given"
            table.reject(
                "access", f'{both}, access and permissions; write access = "public" or permissions = ["…"]'
            )
        # Where the permissions are wrong the whole file is refused: nothing falls open.
        read = _shell_pattern(pattern_as_read(match)) if name == "resources" else None
        rules.append(AccessRule(match, _shell_pattern(match), permissions, read))
        table.close()
    return tuple(rules)


def _shell_pattern(text: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(text))


def _mcp(root: Table) -> McpSettings:
    table = _section(root, "mcp")
    servers = table.texts("authorization_servers")
    for server in servers:
        problem = url_problem(server, ("https",))
        if problem:
            table.reject("authorization_servers", f"one of them {problem}")
    anonymous = table.choice("anonymous", Anonymous.PUBLIC)
    if anonymous is Anonymous.CHALLENGE and not servers:
        remedy = 'name authorization_servers, or write "public"'
        table.reject("anonymous", f'"challenge" needs an authorization endpoint to send people to; {remedy}')
    settings = McpSettings(
        anonymous=anonymous,
        authorization_servers=servers,
        denied=table.choice("denied", Denied.HIDE),
        pinning=table.choice("pinning", Pinning.OFF),
        server_logs=table.path("server_logs") or table.document.folder / "server-logs",
    )
    table.close()
    return settings


def _mfa_roles(table: Table, roles: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    wanted = table.texts("mfa_required_roles")
    for role in wanted:
        if not ROLE.fullmatch(role):
            table.reject(
                "mfa_required_roles", f"holds what is not a role's name; {did_you_mean(role, roles)}"
            )
    return wanted


def _accounts(root: Table, roles: Mapping[str, tuple[str, ...]]) -> AccountSettings:
    table = _section(root, "accounts")
    register = table.choice("register", Register.OFF)
    settings = AccountSettings(
        register=register,
        lockout_after=table.integer("lockout_after", 10, 1, 1000),
        bcrypt_cost=table.integer("bcrypt_cost", 12, 12, 16),
        refresh_grace=table.seconds("refresh_grace", 10.0, "0s", "5m"),
        mfa_required_roles=_mfa_roles(table, roles),
        mfa_key_file=table.path("mfa_key_file") or table.document.folder / "mfa.key",
    )
    table.close()
    return settings
