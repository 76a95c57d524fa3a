"""What a running gateway reads anew: on SIGHUP, by ``ostiary reload`` and by ``ostiary keys``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from gateway.config.values import Config, ConfigError
from gateway.identity.keyring import Keyring
from gateway.identity.tokens import Tokens
from gateway.tls.files import TlsReload


class Reloading:
    """Takes in new signing keys and TLS files; what cannot be used changes nothing."""

    def __init__(
        self, read_again: Callable[[], Config], *, keyring: Keyring, tokens: Tokens, tls: TlsReload
    ) -> None:
        """``read_again`` reads the configuration anew, and raises ConfigError."""
        self._read_again = read_again
        self._keyring = keyring
        self._tokens = tokens
        self._tls = tls

    def keys(self) -> str:
        """Take in the signing keys; the ``kid`` of the one that signs. Raises ConfigError."""
        self._keyring.replace(self._read_again().tokens)
        self._tokens.forget_verified()
        return self._keyring.signing_kid

    async def everything(self) -> Sequence[str]:
        """Take in the signing keys and the TLS files; what is wrong, in which case the old state stays."""
        with contextlib.suppress(
            ConfigError
        ):  # what is wrong with the configuration, the TLS files' turn tells
            self.keys()
        return await self._tls.reload()
