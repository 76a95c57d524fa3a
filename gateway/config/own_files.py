"""Which files are the gateway's own: what no stdio server may see, and what none may change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.config.values import Config, StdioUpstream

_PACKAGES: Final = ("gateway", "certs", "persistence")


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """Paths, absolute; not all of them need be there."""

    hidden: tuple[Path, ...]
    """The store, the servers' logs, and every file with a secret."""
    read_only: tuple[Path, ...]
    """What says who may do what: the configuration, certificates, CRLs; folders of their own as a whole; and the program."""


def own_files(config: Config) -> OwnFiles:
    """Those of that configuration."""
    tls, tokens = config.tls, config.tokens
    hidden = [config.storage.path, config.mcp.server_logs, tls.private_key, config.accounts.mfa_key_file]
    hidden += [path for path in (tokens.key_file, tokens.retired_file) if path is not None]
    hidden += config.secret_files
    if tls.client_ca is not None:
        hidden.append(tls.client_ca.with_name("ca.key"))
    rule_cas = [rule.ca for rule in tls.client_id]
    named = (tls.certificate, tls.client_ca, tls.crl, config.audit.checkpoint_file, *rule_cas)
    kept = [each for path in named if path is not None for each in (path, path.resolve())]
    folder = config.file.parent
    read_only = {path if _holds(path.parent, folder) else path.parent for path in kept}
    return OwnFiles(
        tuple(path for path in dict.fromkeys(hidden) if not _holds(path, folder)),
        (config.file, *sorted(read_only), *_program(folder)),
    )


def _holds(path: Path, folder: Path) -> bool:
    return folder.resolve().is_relative_to(path.resolve())


def _program(folder: Path) -> Iterator[Path]:
    """What is run when the gateway starts: its packages, and the environment and the interpreter that they are in.

    ``folder`` is the configuration's, which is no part of them even if it lies there.
    """
    root = Path(__file__).parents[2]
    yield from (root / package for package in _PACKAGES)
    for prefix in dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix))):
        if _holds(prefix, folder):
            yield from filter(Path.exists, (prefix / part for part in ("bin", "lib", "lib64")))
        else:
            yield prefix


def opened_up(config: Config) -> Iterator[tuple[str, str]]:
    """The places of the configuration that would let a server at the gateway's own files, and what is wrong with each."""
    own = own_files(config)
    hidden = [path.resolve() for path in own.hidden]
    kept = [path.resolve() for path in own.read_only]
    for upstream in config.upstreams:
        if not isinstance(upstream, StdioUpstream):
            continue
        for key, paths in (("read", upstream.sandbox.read), ("write", upstream.sandbox.write)):
            for path in paths or ():
                if config.file.parent.resolve().is_relative_to(path.resolve()):
                    continue  # it holds everything, and was rejected
                opened = _opened(path.resolve(), hidden, kept if key == "write" else [])
                if opened is not None:
                    what = (
                        f"{path} opens {opened}, which is the gateway's own; name what the server needs of it"
                    )
                    yield f"[[upstreams]] {upstream.name} sandbox {key}", what


def _opened(path: Path, hidden: list[Path], kept: list[Path]) -> Path | None:
    for own in (*hidden, *kept):
        if own.is_relative_to(path) or (path.is_relative_to(own) and own.is_dir()):
            return own
    return None
