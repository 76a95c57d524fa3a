"""The TLS files of a running gateway: read and checked whole, then swapped in; noticed when they change.

A state that cannot be used changes nothing: the old one stays in force, and log, audit and ``/health/ready`` say so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certs.contexts import ClientCertificates, TlsFiles, expiring, server_context
from certs.identity import CertificateError
from certs.trust import Trust
from gateway.clock import rfc3339
from gateway.config.values import ConfigError, TlsSettings
from persistence.protocols import AuditStore
from persistence.records import DEFAULT_TENANT, AuditEntry, AuditStatus, StoreError

log = logging.getLogger("ostiary.tls")

LOOK_SECONDS: Final = 0.25
"""How often the files are looked at."""
_LOOKS: Final = 4
"""How often files that cannot be used, and that are being changed, are read again."""
_WARN_EVERY: Final = 86400.0
"""Seconds from one warning of what expires to the next."""
_CHECK_EVERY: Final = 60.0
"""Seconds between two looks at what expires."""


@dataclass(frozen=True, slots=True)
class TlsState:
    """What the files say at one instant, checked."""

    settings: TlsSettings
    context: ssl.SSLContext
    trust: Trust
    loaded_at: float
    """Seconds since the epoch."""


def tls_files(tls: TlsSettings) -> TlsFiles:
    """The files that ``[tls]`` names."""
    rule_cas = tuple(dict.fromkeys(rule.ca for rule in tls.client_id if rule.ca is not None))
    return TlsFiles(tls.certificate, tls.private_key, tls.client_ca, tls.crl, rule_cas)


def load(tls: TlsSettings, now: float) -> TlsState:
    """Read and check everything; blocks. Raises CertificateError."""
    files = tls_files(tls)
    context = server_context(
        files,
        client_certificates=tls.client_certificates,
        minimum_version=ssl.TLSVersion.TLSv1_2 if tls.minimum_version == "1.2" else ssl.TLSVersion.TLSv1_3,
        now=now,
        expired_crl=tls.crl_expired,
    )
    if tls.client_certificates is ClientCertificates.NONE:
        return TlsState(tls, context, Trust(()), now)
    return TlsState(tls, context, Trust.load(files, expired_crl=tls.crl_expired), now)


class TlsReload:
    """Takes in new states. Its owner runs ``watch``."""

    def __init__(
        self,
        state: TlsState,
        *,
        read_again: Callable[[], TlsSettings],
        use: Callable[[TlsState], None],
        audit: AuditStore,
        now: Callable[[], float],
    ) -> None:
        """``read_again`` reads ``[tls]`` anew, and raises ConfigError; ``use`` puts a state in force."""
        self._state = state
        self._read_again = read_again
        self._use = use
        self._audit = audit
        self._now = now
        self._turn = asyncio.Lock()
        self._seen = _look(state.settings)
        self.problems: tuple[str, ...] = ()
        """What is wrong with the newest state, where the one before it is still in force."""
        self._warned_at: float | None = None
        self._checked_at: float | None = None
        self.expiring: tuple[str, ...] = ()
        """What expires soon: a line for each, with its remedy."""

    @property
    def settings(self) -> TlsSettings:
        """What is in force."""
        return self._state.settings

    def concerns(self) -> list[str]:
        """What somebody should see to, in stable words."""
        return [
            word for word, lines in (("tls_reload", self.problems), ("tls_expiry", self.expiring)) if lines
        ]

    async def reload(self, *, configuration: bool = True) -> tuple[str, ...]:
        """Take in what the files say now; what is wrong with it, in which case the old state stays.

        ``configuration``: read ``[tls]`` anew, too.
        """
        async with self._turn:
            now = self._now()
            try:
                settings = self._read_again() if configuration else self._state.settings
                state = await self._settled(settings, now)
                _keep_the_crl(self._state, state)
            except ConfigError as error:
                self.problems = tuple(error.problems)
            except (CertificateError, OSError) as error:
                self.problems = tuple(str(error).splitlines())
            else:
                self.problems = ()
                self._state = state
                self._use(state)
            self._tell(now)
            self._checked_at = None
            return self.problems

    async def _settled(self, settings: TlsSettings, now: float) -> TlsState:
        """What the files say. Where that cannot be used, once they have not changed for a moment: no two files are replaced at once.

        Raises CertificateError and OSError.
        """
        for _ in range(_LOOKS):
            self._seen = _look(settings)
            try:
                return await asyncio.to_thread(load, settings, now)
            except (CertificateError, OSError):
                await asyncio.sleep(LOOK_SECONDS)
                if _look(settings) == self._seen:
                    raise
        return await asyncio.to_thread(load, settings, now)

    async def watch(self) -> None:
        """Notice changed files, and what expires, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look_once()
            except Exception:
                log.exception("looking at the TLS files failed; it goes on")

    async def _look_once(self) -> None:
        now = self._now()
        seen = await asyncio.to_thread(_look, self._state.settings)
        if seen != self._seen or self._state.trust.must_change(now, self._state.loaded_at):
            await self.reload(configuration=False)
        if self._checked_at is None or abs(now - self._checked_at) >= _CHECK_EVERY:
            self._checked_at = now
            self.expiring = await asyncio.to_thread(expiring, tls_files(self._state.settings), now)
            if self.expiring and (self._warned_at is None or now - self._warned_at >= _WARN_EVERY):
                self._warned_at = now
                for line in self.expiring:
                    log.warning("%s", line)

    def _tell(self, now: float) -> None:
        """In the log and the audit."""
        for problem in self.problems:
            log.error("the old TLS state stays in force: %s", problem)
        if not self.problems:
            log.warning("certificates, CAs and CRL were read anew")
        entry = AuditEntry(
            timestamp=rfc3339(now),
            event="tls_reloaded",
            status=AuditStatus.ERROR if self.problems else AuditStatus.OK,
            tenant_id=DEFAULT_TENANT,
            reason="unusable" if self.problems else None,
            target=self.problems[0][:512] if self.problems else None,
        )
        try:
            self._audit.append_soon(entry)
        except StoreError as error:
            log.critical("a reload could not be audited: %s", error)


def _keep_the_crl(old: TlsState, new: TlsState) -> None:
    """A CRL that is gone from its place was lost, or is being replaced: nobody said that the revoked are good again.

    Raises CertificateError.
    """
    if (
        old.trust.checks_revocation
        and not new.trust.checks_revocation
        and old.settings.crl == new.settings.crl
    ):
        raise CertificateError(
            f"{new.settings.crl}: is gone, and nobody who is on it is let in again; put it back, or name another file, or none, "
            "in [tls] crl"
        )


def _look(tls: TlsSettings) -> tuple[tuple[Path, object], ...]:
    """What tells whether a file is another one than before."""
    files = tls_files(tls)
    paths = (files.certificate, files.private_key, files.client_ca, files.crl, *files.rule_cas)
    return tuple((path, _identity(path)) for path in paths if path is not None)


def _identity(path: Path) -> object:
    try:
        status = os.stat(path)  # noqa: PTH116 - the plain system call, which follows links
    except OSError as error:
        return error.errno
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns, status.st_mode
