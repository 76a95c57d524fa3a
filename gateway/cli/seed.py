"""``ostiary seed``: tenants, roles, clients, API keys and invitations from a file; run twice, it changes nothing.

What is secret of a key or an invitation is known once, when it is made: it is written into a file of its own (0600), and
printed nowhere. What was made is known again by its name.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

import click
import msgspec

from gateway.cli.clients import all_pages
from gateway.cli.output import print_json, print_table
from gateway.cli.session import (
    config_option,
    environment,
    json_option,
    password_from_stdin,
    perform,
)

MAX_PASSWORD_FILE = 4096


class SeedTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[tenants]]``"""

    tenant: str
    name: str | None = None
    mfa_required: bool | None = None
    """None: as it is; off in a new one."""


class SeedRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[roles]]``; without ``tenant``: of every tenant."""

    role: str
    permissions: list[str]
    tenant: str | None = None


class SeedClient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[clients]]``. The password is set where the client is added, and never again."""

    name: str
    tenant: str = "default"
    roles: list[str] = []
    permissions: list[str] = []
    certificate: str | None = None
    """None: as it is; its name for a new one."""
    require_certificate: bool | None = None
    """None: as it is; off for a new one."""
    password_file: str | None = None
    password_env: str | None = None
    password_stdin: bool = False

    def __post_init__(self) -> None:
        if (self.password_file is not None) + (self.password_env is not None) + self.password_stdin > 1:
            raise ValueError("a client has one of password_file, password_env and password_stdin")


class SeedApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[api_keys]]``; known by client and name."""

    client: str
    name: str
    key_file: str
    """Where the key is written when it is made."""
    scopes: list[str] = []
    expires_in: str = "90d"

    def __post_init__(self) -> None:
        from gateway.config.shapes import parse_duration

        if parse_duration(self.expires_in) is None:
            raise ValueError('expires_in is a duration such as "30d"')


class SeedInvitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[invitations]]``; known by tenant and name, also after it was used."""

    name: str
    code_file: str
    """Where the code is written when it is made."""
    tenant: str = "default"
    roles: list[str] = []
    days: int = 7


class Seed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    tenants: list[SeedTenant] = []
    roles: list[SeedRole] = []
    clients: list[SeedClient] = []
    api_keys: list[SeedApiKey] = []
    invitations: list[SeedInvitation] = []

    def __post_init__(self) -> None:
        named = [
            *(("tenant", each.tenant) for each in self.tenants),
            *(("role", _role_id(each)) for each in self.roles),
            *(("client", each.name) for each in self.clients),
            *(("API key", f"{each.client}/{each.name}") for each in self.api_keys),
            *(("invitation", f"{each.tenant}/{each.name}") for each in self.invitations),
        ]
        twice = [f"{kind} {name}" for (kind, name), count in Counter(named).items() if count > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)}: here twice; say it once")


def _role_id(wanted: SeedRole) -> str:
    return f"{wanted.tenant or '*'}/{wanted.role}"


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@json_option
def seed(file: Path, config_file: Path, *, as_json: bool) -> None:
    """Make the tenants, roles, clients and so on of the file FILE.

    What is there already is brought to what FILE says, but for passwords, keys and invitations, which stay.
    A second run changes nothing. No secret is in FILE: for passwords it names files, variables or standard input; new keys
    and codes are written into the files that it names.
    """
    wanted = _read(file)
    _check_words(file, wanted)
    folder = file.parent
    done = [
        *(_done("tenant", each.tenant, _tenant, config_file, each) for each in wanted.tenants),
        *(_done("role", _role_id(each), _role, config_file, each) for each in wanted.roles),
        *(_done("client", each.name, _client, config_file, each, folder) for each in wanted.clients),
        *(
            _done("api key", f"{each.client}/{each.name}", _api_key, config_file, each, folder)
            for each in wanted.api_keys
        ),
        *(
            _done("invitation", f"{each.tenant}/{each.name}", _invitation, config_file, each, folder)
            for each in wanted.invitations
        ),
    ]
    changed = sum(outcome != "unchanged" for _, _, outcome in done)
    if as_json:
        names = ("kind", "id", "outcome")
        print_json({"changed": changed, "seeded": [dict(zip(names, each, strict=True)) for each in done]})
        return
    print_table(("KIND", "ID", "OUTCOME"), done)
    click.echo(f"{changed} changed." if changed else "Nothing to change: all of it is there.")


P = ParamSpec("P")


def _done(
    kind: str, name: str, make: Callable[P, str], *args: P.args, **kwargs: P.kwargs
) -> tuple[str, str, str]:
    """Make one entry; what, which, and what came of it. Raises click.ClickException."""
    from gateway.operations.administration import OperationError

    try:
        return kind, name, make(*args, **kwargs)
    except OperationError as error:
        raise click.ClickException(
            f"{kind} {name}: {error} (what the file has before it is done: mend it, and run this again)"
        ) from None


def _read(file: Path) -> Seed:
    """Raises click.ClickException."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(
            f"{file} cannot be read ({error.strerror}); mend its path or mode"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} is not TOML: {error}") from None
    clients = document.get("clients")
    for client in clients if isinstance(clients, list) else ():
        if isinstance(client, dict) and "password" in client:
            raise click.ClickException(
                f"{file}: a password does not belong here; name a file, a variable or standard input: "
                "password_file, password_env or password_stdin"
            )
    try:
        return msgspec.convert(document, Seed)
    except msgspec.ValidationError as error:
        raise click.ClickException(f"{file}: {error}") from None


def _check_words(file: Path, wanted: Seed) -> None:
    """Find what could never be done before anything is. Raises click.ClickException."""
    from gateway.operations.administration import ParameterError
    from gateway.operations.table import check_parameters

    for operation, parameters in _words(wanted):
        try:
            check_parameters(operation, parameters)
        except ParameterError as error:
            raise click.ClickException(f"{file}: {error}") from None


def _words(wanted: Seed) -> Iterator[tuple[str, dict[str, object]]]:
    """What is asked for."""
    for tenant in wanted.tenants:
        yield "tenants.add", {"tenant_id": tenant.tenant, "name": tenant.name}
    for role in wanted.roles:
        yield (
            "roles.add",
            {"role": role.role, "tenant_id": role.tenant, "permissions": role.permissions},
        )
    for client in wanted.clients:
        yield "clients.add", _new_client(client, None)
    for key in wanted.api_keys:
        yield "api_keys.add", _new_api_key(key)
    for invitation in wanted.invitations:
        yield "invitations.add", _new_invitation(invitation)


def _tenant(config_file: Path, wanted: SeedTenant) -> str:
    found = _all(config_file, "tenants")
    present = next((each for each in found if each["tenant_id"] == wanted.tenant), None)
    said: dict[str, object] = {"name": wanted.name, "mfa_required": wanted.mfa_required}
    if present is None:
        said["mfa_required"] = bool(wanted.mfa_required)
        perform(config_file, "tenants.add", tenant_id=wanted.tenant, **said)
        return "added"
    same_name = wanted.name in {None, present["name"]}
    if same_name and wanted.mfa_required in {None, present["settings"]["mfa_required"]}:
        return "unchanged"
    perform(config_file, "tenants.set", tenant_id=wanted.tenant, **said)
    return "changed"


def _role(config_file: Path, wanted: SeedRole) -> str:
    found = [each for each in _all(config_file, "roles") if each["source"] == "store"]
    present = next((each for each in found if each["role_id"] == _role_id(wanted)), None)
    said: dict[str, object] = {
        "role": wanted.role,
        "tenant_id": wanted.tenant,
        "permissions": wanted.permissions,
    }
    if present is None:
        perform(config_file, "roles.add", **said)
        return "added"
    if list(present["permissions"]) == list(dict.fromkeys(wanted.permissions)):
        return "unchanged"
    perform(config_file, "roles.set", **said)
    return "changed"


def _client(config_file: Path, wanted: SeedClient, folder: Path) -> str:
    found = _all(config_file, "clients")
    present = next((each for each in found if each["client_id"] == wanted.name), None)
    if present is None:
        perform(config_file, "clients.add", **_new_client(wanted, _password(wanted, folder)))
        return "added"
    if present["tenant_id"] != wanted.tenant:
        raise click.ClickException(
            f"{wanted.name} belongs to the tenant {present['tenant_id']}, and a client does not move; give the new one "
            "another name"
        )
    roles, permissions = (list(dict.fromkeys(words)) for words in (wanted.roles, wanted.permissions))
    said: dict[str, object] = {}
    if wanted.certificate is not None:
        said["certificate"] = None if wanted.certificate == "none" else wanted.certificate
    if wanted.require_certificate is not None:
        said["require_certificate"] = wanted.require_certificate
    same_grants = (list(present["roles"]), list(present["permissions"])) == (roles, permissions)
    if same_grants and all(present[name] == value for name, value in said.items()):
        return "unchanged"
    said |= {"roles": roles, "permissions": permissions}
    perform(config_file, "clients.change", client_id=wanted.name, **said)
    return "changed"


def _api_key(config_file: Path, wanted: SeedApiKey, folder: Path) -> str:
    found = all_pages(config_file, "api_keys.list", "api_keys", client_id=wanted.client)
    if any(each["name"] == wanted.name for each in found):
        return "unchanged"
    file = _free(folder / wanted.key_file)
    made = perform(config_file, "api_keys.add", **_new_api_key(wanted))
    _keep(
        file, made["api_key"], lambda: perform(config_file, "api_keys.revoke", key_id=made["key"]["key_id"])
    )
    return "added"


def _new_api_key(wanted: SeedApiKey) -> dict[str, object]:
    return {
        "client_id": wanted.client,
        "name": wanted.name,
        "scopes": wanted.scopes,
        "expires_in": wanted.expires_in,
    }


def _invitation(config_file: Path, wanted: SeedInvitation, folder: Path) -> str:
    found = _all(config_file, "invitations")
    if any((each["tenant_id"], each["name"]) == (wanted.tenant, wanted.name) for each in found):
        return "unchanged"
    file = _free(folder / wanted.code_file)
    made = perform(config_file, "invitations.add", **_new_invitation(wanted))
    made_id = made["invitation"]["invitation_id"]
    _keep(file, made["code"], lambda: perform(config_file, "invitations.revoke", invitation_id=made_id))
    return "added"


def _new_invitation(wanted: SeedInvitation) -> dict[str, object]:
    return {"name": wanted.name, "tenant_id": wanted.tenant, "roles": wanted.roles, "days": wanted.days}


def _free(file: Path) -> Path:
    """The place of a new secret. Raises click.ClickException where something is there."""
    if file.exists() or file.is_symlink():
        raise click.ClickException(
            f"{file} is there, and what it is for is not: it holds an earlier secret; move it away"
        )
    return file


def _keep(file: Path, secret: str, undo: Callable[[], object]) -> None:
    """Write a new secret; where it cannot be, ``undo`` what nobody could use. Raises CertificateError."""
    from certs import pem

    try:
        pem.create(pem.NewFile(file, f"{secret}\n".encode(), pem.PRIVATE))
    except BaseException:
        undo()
        raise


def _new_client(wanted: SeedClient, password: str | None) -> dict[str, object]:
    return {
        "client_id": wanted.name,
        "tenant_id": wanted.tenant,
        "roles": wanted.roles,
        "permissions": wanted.permissions,
        "certificate": wanted.certificate,
        "require_certificate": bool(wanted.require_certificate),
        "password": password,
    }


def _all(config_file: Path, noun: str) -> list[dict[str, Any]]:
    return all_pages(config_file, f"{noun}.list", noun)


def _password(wanted: SeedClient, folder: Path) -> str | None:
    """Raises click.ClickException."""
    if wanted.password_stdin:
        return password_from_stdin()
    if wanted.password_env is not None:
        value = environment().get(wanted.password_env)
        if not value:
            raise click.ClickException(
                f"{wanted.name}: the variable {wanted.password_env} is not set; set it"
            )
        return value
    if wanted.password_file is None:
        return None
    path = folder / wanted.password_file
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise click.ClickException(
            f"{wanted.name}: {path} cannot be read ({error.strerror}); mend its path or mode"
        ) from None
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, not a path
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise click.ClickException(f"{wanted.name}: others can get at {path}; chmod 600 {path}")
        raw = stream.read(MAX_PASSWORD_FILE)
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.ClickException(
            f"{wanted.name}: {path} is not text; write the password as UTF-8"
        ) from None
    if not text:
        raise click.ClickException(f"{wanted.name}: {path} is empty; write the password into it")
    return text
