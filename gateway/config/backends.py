"""Reads what lies behind the gateway: ``[[upstreams]]`` and ``[[services]]``."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Final

from gateway.config.credentials import read_credentials
from gateway.config.shapes import NAME, VARIABLE, Table
from gateway.config.values import (
    Algorithm,
    HttpUpstream,
    SandboxSettings,
    ServiceSettings,
    Sessions,
    StdioUpstream,
    UpstreamSettings,
)

_NAME_REMEDY = 'use lower-case letters, digits, "_" and "-", beginning with a letter or digit, 64 at most'
_TOOL_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SERVICE_PREFIX = re.compile(r"/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*/)+")
_OWN_PATHS: Final = ("auth", "mcp", "audit", "admin", "health", "metrics", ".well-known", "openapi.json")
_INHERITED: Final = ("PATH", "HOME", "LANG")


def read_upstreams(root: Table, algorithm: Algorithm, *, variables: bool) -> tuple[UpstreamSettings, ...]:
    """``[[upstreams]]``. ``variables`` False: those of ``env_from`` may be absent, and no secret is read."""
    upstreams: list[UpstreamSettings] = []
    for table in root.tables("upstreams", "upstreams"):
        name = _unique_name(table, [upstream.name for upstream in upstreams])
        prefix = _tool_prefix(table, upstreams)
        transport = table.text("transport", "")
        if transport == "http":
            upstreams.append(_http_upstream(table, name, prefix, algorithm, secrets=variables))
        elif transport == "stdio":
            upstreams.append(_stdio_upstream(table, name, prefix, variables=variables))
        else:
            table.reject("transport", 'is missing or not known; write "http" or "stdio"')
            continue
        table.close()
    return tuple(upstreams)


def _unique_name(table: Table, taken: list[str]) -> str:
    name = table.matching("name", "", NAME, _NAME_REMEDY)
    if not table.has("name"):
        table.reject("name", "is missing; give it a name")
    if name and name in taken:
        table.reject("name", f'"{name}" is taken by one above; give each its own name')
    return name


def _tool_prefix(table: Table, others: list[UpstreamSettings]) -> str:
    """The prefix, which no other upstream has: else the one could take the names of the other's tools."""
    remedy = 'use letters, digits, "_", "-" and "." (64 at most), as the names of MCP tools do'
    prefix = table.matching("prefix", "", _TOOL_PREFIX, remedy, empty=True)
    owner = next((other.name for other in others if prefix and other.prefix == prefix), None)
    if owner is not None:
        table.reject("prefix", f'is that of the upstream "{owner}", too; give each its own')
    return prefix


def _http_upstream(
    table: Table, name: str, prefix: str, algorithm: Algorithm, *, secrets: bool
) -> HttpUpstream:
    if not table.has("url"):
        table.reject("url", "is missing; write http://HOST:PORT/mcp")
    default = HttpUpstream(name, "")
    url = table.url("url", "")
    sessions, client_cert = table.choice("sessions", default.sessions), table.flag("client_cert")
    if client_cert and sessions is Sessions.SHARED:
        remedy = 'write sessions = "client", or take out client_cert'
        table.reject("client_cert", f"would mix the clients' certificates in one session; {remedy}")
    return HttpUpstream(
        name=name,
        url=url,
        prefix=prefix,
        timeout=table.seconds("timeout", default.timeout, "1s", "1d"),
        max_concurrency=table.integer("max_concurrency", default.max_concurrency, 1, 100_000),
        sessions=sessions,
        credentials=read_credentials(table, url, algorithm, wanted=secrets),
        client_cert=client_cert,
    )


def _stdio_upstream(table: Table, name: str, prefix: str, *, variables: bool) -> StdioUpstream:
    command = table.texts("command")
    if not command:
        table.reject("command", 'is missing, empty or wrong; write ["PROGRAM", "ARGUMENT", …]')
    default = StdioUpstream(name, command, table.document.folder)
    return StdioUpstream(
        name=name,
        command=command,
        folder=table.document.folder,
        environment=_child_environment(table, required=variables),
        sandbox=_sandbox(table),
        prefix=prefix,
        timeout=table.seconds("timeout", default.timeout, "1s", "1d"),
        max_concurrency=table.integer("max_concurrency", default.max_concurrency, 1, 100_000),
        sessions=table.choice("sessions", default.sessions),
    )


def _child_environment(table: Table, *, required: bool) -> tuple[tuple[str, str], ...]:
    """PATH, HOME and LANG of the gateway, then ``env``, then what ``env_from`` names."""
    surroundings = table.document.environment
    environment = {key: surroundings[key] for key in _INHERITED if key in surroundings}
    given = table.mapping("env")
    for variable in given:
        if not VARIABLE.fullmatch(variable):
            table.reject("env", "holds a name that no environment variable can have; correct it")
    environment |= given
    for variable in table.texts("env_from"):
        if not VARIABLE.fullmatch(variable):
            table.reject("env_from", "holds a name that no environment variable can have; correct it")
            continue
        if variable in table.document.secret_variables:
            table.reject("env_from", f"{variable} holds the gateway's signing secret; take it out")
            continue
        if variable in given:
            table.reject("env_from", f"{variable} stands in env, too; keep one of the two")
        value = table.document.variable(variable)
        if value is not None:
            environment[variable] = value
        elif required:
            table.reject("env_from", f"the variable {variable} is not set; set it, or take it out")
    return tuple(environment.items())


def _sandbox(upstream: Table) -> SandboxSettings:
    table = upstream.table("sandbox")
    user = table.text("user", "")
    if user and os.geteuid() != 0:
        table.reject("user", "only root can change users; start the gateway as root, or take it out")
    elif user and not _is_user(user):
        table.reject("user", "there is no such user; make it, or name another")
    settings = SandboxSettings(
        memory=table.size("memory"),
        open_files=table.optional_integer("open_files", 8, 1 << 20),
        processes=table.optional_integer("processes", 1, 1 << 20),
        user=user or None,
        read=_paths(table, "read"),
        write=_paths(table, "write"),
    )
    table.close()
    return settings


def _paths(table: Table, key: str) -> tuple[Path, ...] | None:
    """Paths that may be opened to a child; never the gateway's own folder."""
    if not table.has(key):
        table.texts(key)
        return None
    folder = table.document.folder
    paths = tuple(folder / text for text in table.texts(key))
    for path in paths:
        if folder.resolve().is_relative_to(path.resolve()):
            table.reject(key, f"{path} holds the gateway's own files; name what the server needs of it")
        elif not path.exists():
            table.reject(key, f"{path} is not there; make it, or mend the path")
    return paths


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True


def read_services(root: Table) -> tuple[ServiceSettings, ...]:
    """``[[services]]``"""
    services: list[ServiceSettings] = []
    for table in root.tables("services", "services"):
        name = _unique_name(table, [service.name for service in services])
        prefix = _service_prefix(table, [service.prefix for service in services])
        if not table.has("url"):
            table.reject("url", "is missing; write http://HOST:PORT")
        permissions = table.table("permissions")
        services.append(
            ServiceSettings(
                name=name,
                prefix=prefix,
                url=table.url("url", "", origin=True),
                read=permissions.permissions("read"),
                write=permissions.permissions("write"),
                timeout=table.seconds("timeout", 30.0, "1s", "1d"),
                client_cert=table.flag("client_cert"),
            )
        )
        permissions.close()
        table.close()
    return tuple(services)


def _service_prefix(table: Table, taken: list[str]) -> str:
    remedy = 'begin and end it with "/", with plain segments between, such as "/api/v1/"'
    prefix = table.matching("prefix", "", _SERVICE_PREFIX, remedy)
    if not table.has("prefix"):
        table.reject("prefix", 'is missing; write a path, such as "/api/v1/"')
    if prefix and prefix.split("/")[1] in _OWN_PATHS:
        table.reject(
            "prefix", f"is the gateway's own; choose one that does not begin with /{prefix.split('/')[1]}"
        )
    if prefix and prefix in taken:
        table.reject("prefix", "is taken by a service above; give each its own prefix")
    return prefix
