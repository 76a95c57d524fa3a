"""PEM files: read, create, replace. Every failure is a CertificateError that names file and remedy."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from certs.identity import MALFORMED, CertificateError
from certs.revocation_lists import problem_of

PrivateKey = (
    ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)

PRIVATE: Final = 0o600
"""The mode of a private key's file."""
PUBLIC: Final = 0o644
"""The mode of a certificate's or CRL's file."""

_LARGEST: Final = 16 * 1024 * 1024
"""Bytes; a CRL of 300,000 entries is smaller."""
_REVOCATION_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be written. ``mode`` is never exceeded, not even for an instant."""

    path: Path
    content: bytes = field(repr=False)
    mode: int


def is_there(path: Path) -> bool:
    """Whether there is anything to read: only the plain absence of the file says that there is nothing."""
    try:
        path.lstat()  # a link to nothing is a mistake, not an absence
    except FileNotFoundError:
        return False
    except OSError:  # reading it will tell why
        return True
    return True


def read(path: Path) -> bytes:
    """The file's content. Raises CertificateError."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise CertificateError(f"{path}: no such file; create it or correct the path") from error
    except IsADirectoryError as error:
        raise CertificateError(f"{path}: cannot be read, it is a folder; name a PEM file in it") from error
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read ({error.strerror}); let this user read it") from error
    if len(content) > _LARGEST:
        raise CertificateError(f"{path}: is larger than 16 MiB; name a PEM file")
    return content


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Every certificate in the file, in its order; at least one. Raises CertificateError."""
    try:
        certificates = tuple(x509.load_pem_x509_certificates(read(path)))
        for certificate in certificates:  # parsed on demand: find what is malformed here
            _ = certificate.extensions, certificate.public_key(), certificate.subject, certificate.issuer
    except MALFORMED as error:
        raise CertificateError(
            f"{path}: holds no readable PEM certificate; write one, or export it again"
        ) from error
    return certificates


def read_private_key(path: Path, passphrase: Callable[[], bytes] | None = None) -> PrivateKey:
    """The file's private key. ``passphrase`` is asked where the key is protected by one; without it that is refused.

    Raises CertificateError.
    """
    content = read(path)
    try:
        key: object = load_pem_private_key(content, password=None)
    except TypeError as error:
        if passphrase is None:
            remedy = f"write it without one, in mode 0600: openssl pkey -in {path} -out FILE"
            raise CertificateError(
                f"{path}: the private key is protected by a passphrase; {remedy}"
            ) from error
        key = _opened(path, content, passphrase())
    except MALFORMED as error:
        raise CertificateError(
            f"{path}: holds no readable PEM private key; write one, or export it again"
        ) from error
    if not isinstance(key, PrivateKey):
        raise CertificateError(
            f"{path}: a key of this type cannot be used; make an EC (P-256), RSA or Ed25519 key"
        )
    return key


def _opened(path: Path, content: bytes, passphrase: bytes) -> object:
    try:
        return load_pem_private_key(content, password=passphrase)
    except MALFORMED as error:
        raise CertificateError(
            f"{path}: cannot be opened with that passphrase; give the right one"
        ) from error


def read_revocation_lists(path: Path) -> tuple[x509.CertificateRevocationList, ...]:
    """Every CRL in the file; at least one, and each complete. Raises CertificateError.

    A certificate beside them is refused: OpenSSL would trust it as a CA when it loads the file.
    """
    content = read(path)
    if b"CERTIFICATE-----" in content:
        raise CertificateError(f"{path}: holds a certificate; keep only CRLs in it")
    try:
        found = tuple(x509.load_pem_x509_crl(block) for block in _REVOCATION_LIST.findall(content))
        for revocation_list in found:
            _ = revocation_list.extensions, revocation_list.issuer, len(revocation_list)
        problems = [problem_of(revocation_list) for revocation_list in found]
    except MALFORMED as error:
        raise CertificateError(f"{path}: the CRL is malformed; have the CA write a new one") from error
    for revocation_list, problem in zip(found, problems, strict=True):
        if problem is not None:
            name = revocation_list.issuer.rfc4514_string()
            raise CertificateError(f"{path}: the CRL of {name} {problem}")
    if not found:
        raise CertificateError(
            f"{path}: holds no PEM CRL (BEGIN X509 CRL); have the CA write one, or remove the file"
        )
    return found


def encode_certificate(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def encode_private_key(key: PrivateKey) -> bytes:
    """The key as PEM, PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def mode_problem(path: Path) -> str | None:
    """What is wrong with a private file's mode, which must be its owner's alone; None: nothing."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return f"{path}: others than its owner can use it (mode {mode:04o}); run: chmod 600 {path}"


def create_folder(path: Path) -> None:
    """Make the folder, mode 0700, where there is none. Raises CertificateError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CertificateError(
            f"{path}: cannot make the folder ({error.strerror}); choose another"
        ) from error


def create(*files: NewFile) -> None:
    """Write files that are not there yet, in the order given: all of them or none.

    Raises CertificateError where one is there already, a symbolic link included, or cannot be written.
    """
    made: list[Path] = []
    for file in files:
        try:
            _write(file)
            made.append(file.path)
            _sync_folder(file.path.parent)
        except OSError as error:
            for path in made:
                path.unlink(missing_ok=True)
            if isinstance(error, FileExistsError):
                remedy = "exists already; remove it, or choose another place"
            else:
                remedy = f"cannot be written ({error.strerror}); choose another place"
            raise CertificateError(f"{file.path}: {remedy}") from error


def replace(file: NewFile, *, owner_of: Path | None = None) -> None:
    """Write a file anew by an atomic rename: a reader finds old or new. Raises CertificateError.

    Where root writes it, it keeps its owner, or that of ``owner_of`` where it is new: the gateway's user must read it.
    """
    temporary = _beside(file)
    try:
        _write(temporary)
        _keep_owner(temporary.path, file.path if file.path.exists() else owner_of)
        temporary.path.replace(file.path)
        _sync_folder(file.path.parent)
    except OSError as error:
        raise _not_replaced(file, error) from error
    finally:
        temporary.path.unlink(missing_ok=True)


def replace_pair(first: NewFile, second: NewFile) -> None:
    """Write two files anew that belong together, such as a key and its certificate. Raises CertificateError.

    Both are on the disk beside the old ones before the first is renamed, and where the second cannot follow,
    the first gets its old content back. Only a crash between the two renames leaves one new and one old.
    """
    try:
        old = NewFile(first.path, first.path.read_bytes(), first.mode) if first.path.exists() else None
    except OSError as error:
        raise _not_replaced(first, error) from error
    temporary = _beside(second)
    try:
        _write(temporary)
        _keep_owner(temporary.path, path if (path := second.path).exists() else None)
        replace(first)
        _rename_after(temporary.path, second.path, first.path, old)
    except OSError as error:
        raise _not_replaced(second, error) from error
    finally:
        temporary.path.unlink(missing_ok=True)


def _keep_owner(path: Path, like: Path | None) -> None:
    if os.geteuid() == 0 and like is not None:
        status = like.stat()
        os.chown(path, status.st_uid, status.st_gid)


def _rename_after(temporary: Path, path: Path, renamed: Path, old: NewFile | None) -> None:
    try:
        temporary.replace(path)
    except OSError:
        if old is None:
            renamed.unlink()
        else:
            replace(old)
        raise
    _sync_folder(path.parent)


def _not_replaced(file: NewFile, error: OSError) -> CertificateError:
    return CertificateError(f"{file.path}: cannot be written ({error.strerror}); nothing was changed")


def _beside(file: NewFile) -> NewFile:
    return NewFile(file.path.with_name(f".{file.path.name}.{secrets.token_hex(8)}"), file.content, file.mode)


def _write(file: NewFile) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(file.path, flags, file.mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(file.content)
            stream.flush()
            os.fsync(descriptor)
    except OSError:
        file.path.unlink()
        raise


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
