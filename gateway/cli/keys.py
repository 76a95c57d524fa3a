"""``ostiary keys``: the keys that sign tokens.

The files are written here, by whoever may write them; the store has the entries in the audit, and a running server goes
over to the new key at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.output import print_json, print_table, short_time
from gateway.cli.session import config_option, environment, json_option, now, perform

if TYPE_CHECKING:
    from gateway.config.values import TokenSettings

_ALGORITHMS = ("HS256", "RS256", "PS256", "ES256", "EdDSA")
_MARGIN_SECONDS = 60
"""For tokens that are issued with the old key while the new one is put in its place."""


@click.group()
def keys() -> None:
    """The keys that sign tokens."""


@keys.command(name="list")
@config_option
@json_option
def list_keys(config_file: Path, *, as_json: bool) -> None:
    """List the keys: one signs, others still verify."""
    from gateway.clock import rfc3339
    from gateway.config.values import SigningKey
    from gateway.identity.signing_keys import load

    settings = _settings(config_file)
    found = [load(SigningKey(settings.algorithm, settings.secret)), *map(load, settings.retired)]
    rows = [
        {
            "kid": key.kid,
            "algorithm": key.algorithm,
            "state": _state(key.verify_until),
            "verify_until": None if key.verify_until is None else rfc3339(key.verify_until),
        }
        for key in found
    ]
    if as_json:
        print_json({"keys": rows})
        return
    table = [
        (r["kid"], r["algorithm"], r["state"], r["verify_until"] and short_time(r["verify_until"]))
        for r in rows
    ]
    print_table(("KID", "ALGORITHM", "STATE", "VERIFIES UNTIL (UTC)"), table)


@keys.command()
@click.argument("algorithm", type=click.Choice(_ALGORITHMS))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def make(algorithm: str, file: Path) -> None:
    """Make a key for ALGORITHM in FILE.

    FILE (0600) must not be there yet.
    """
    from certs import pem
    from gateway.config.values import Algorithm
    from gateway.identity import signing_keys

    pem.create(pem.NewFile(file, signing_keys.make(Algorithm(algorithm)).encode(), pem.PRIVATE))
    click.echo(f"{file} holds a new key for {algorithm}.")


@keys.command()
@click.option("--compromised", is_flag=True, help="The old key is in wrong hands: every token ends at once.")
@config_option
@json_option
def rotate(config_file: Path, *, compromised: bool, as_json: bool) -> None:
    """Sign with a new key from now on.

    The old one verifies the tokens that it signed until the last of them has expired.
    """
    from certs import pem
    from gateway.config.values import SigningKey
    from gateway.identity.signing_keys import load, make

    settings = _settings(config_file)
    if settings.key_file is None:
        raise click.ClickException(
            "the secret is in an environment variable: run `ostiary keys retire`, put a new secret there, restart"
        )
    old = load(SigningKey(settings.algorithm, settings.secret)).kid
    if not compromised:
        _retire(config_file, settings, old)
    material = make(settings.algorithm)
    new = load(SigningKey(settings.algorithm, material.strip())).kid
    pem.replace(pem.NewFile(settings.key_file, material.encode(), pem.PRIVATE))
    answer = perform(config_file, "keys.use", kid=new, revoke_all=compromised)
    if as_json:
        print_json({"kid": new, "retired_kid": None if compromised else old, **answer})
        return
    click.echo(
        f"{new} signs from now on." if answer["server_running"] else f"{new} signs from the next start on."
    )
    click.echo(
        f"{old} is gone; {answer['revoked']} tokens were revoked."
        if compromised
        else f"{old} still verifies."
    )


@keys.command()
@config_option
@json_option
def retire(config_file: Path, *, as_json: bool) -> None:
    """Keep the key that signs for what it signed.

    It is to be done before you put another in its place by hand: for secrets in environment variables, and for going over to another algorithm.
    """
    from gateway.config.values import SigningKey
    from gateway.identity.signing_keys import load

    settings = _settings(config_file)
    kid = load(SigningKey(settings.algorithm, settings.secret)).kid
    _retire(config_file, settings, kid)
    if as_json:
        print_json({"retired_kid": kid})
        return
    click.echo(
        f"{settings.retired_file} has {kid}: put a new key in its place in the configuration, and restart."
    )


def _settings(config_file: Path) -> TokenSettings:
    from gateway.config.reader import read_token_settings

    return read_token_settings(config_file, environment())


def _retire(config_file: Path, settings: TokenSettings, kid: str) -> None:
    from certs import pem
    from gateway.config.values import SigningKey
    from gateway.identity.signing_keys import with_retired

    last_exp: int = perform(config_file, "keys.retire", kid=kid)["last_exp"]
    longest = max(settings.access_ttl, settings.refresh_ttl)
    until = max(last_exp, int(now() + longest) + _MARGIN_SECONDS)
    content = with_retired(
        settings.retired, SigningKey(settings.algorithm, settings.secret, until), now=now()
    )
    file = settings.retired_file or config_file.parent / "retired-keys.json"
    pem.replace(pem.NewFile(file, content, pem.PRIVATE), owner_of=settings.key_file or config_file)


def _state(verify_until: int | None) -> str:
    if verify_until is None:
        return "signs"
    return "verifies" if verify_until > now() else "expired"
