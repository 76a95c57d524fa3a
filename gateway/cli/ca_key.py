"""The CA whose key is at hand, and the passphrase of that key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.session import environment, read_settings

if TYPE_CHECKING:
    from certs.authority import Authority

PASSPHRASE = "OSTIARY_CA_PASSPHRASE"  # noqa: S105 - the variable's name
PASSPHRASE_FILE = "OSTIARY_CA_PASSPHRASE_FILE"  # noqa: S105


def open_authority(config_file: Path, folder: Path | None = None) -> Authority:
    """The CA in ``folder``, else the one of the configuration. Raises CertificateError, ConfigError."""
    from certs.authority import Authority
    from certs.identity import CertificateError

    if folder is not None:
        return Authority.load(folder, passphrase=ca_passphrase)
    tls = read_settings(config_file).tls
    if tls.client_ca is None:
        raise CertificateError(
            f"{config_file}: [tls] client_ca names no CA; name one whose ca.key is beside it"
        )
    return Authority.load(
        tls.client_ca.parent, certificate=tls.client_ca, crl=tls.crl, passphrase=ca_passphrase
    )


def ca_passphrase() -> bytes:
    """From a file, a variable, or whoever sits at the terminal. Raises CertificateError where there is none of these."""
    from certs import pem
    from certs.identity import CertificateError

    given = environment()
    if file := given.get(PASSPHRASE_FILE):
        path = Path(file)
        if (problem := pem.mode_problem(path)) is not None:
            raise CertificateError(problem)
        return pem.read(path).rstrip(b"\r\n")
    if passphrase := given.get(PASSPHRASE):
        return passphrase.encode()
    if sys.stdin.isatty():
        asked: str = click.prompt("Passphrase of the CA's key", hide_input=True, err=True)
        return asked.encode()
    remedy = f"set {PASSPHRASE_FILE} to a file (mode 0600) that holds it, or {PASSPHRASE}"
    raise CertificateError(f"the CA's key is protected by a passphrase; {remedy}")
