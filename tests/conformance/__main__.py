"""``make conformance``: the official suite against the upstream, and through the gateway, side by side.

For each revision it runs three times: directly, through the gateway with a certificate alone, and with a certificate
and a token that is bound to it. It ends 0 only if every required scenario passes everywhere, check by check alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.conformance.door import gateway, identity, prepare, upstream, with_token
from tests.conformance.suite import REVISIONS, Identity, SuiteError, Verdict, failures, required, run
from tests.npm.packages import NpmError, install

MISSING = Verdict(0, 0)
Column = dict[str, Verdict]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make conformance")
    parser.add_argument("--revision", action="append", choices=list(REVISIONS), help="only this one")
    parser.add_argument("--direct", action="store_true", help="without the gateway")
    options = parser.parse_args()
    try:
        install()
        revisions = options.revision or REVISIONS
        conformant = {revision: _revision(revision, direct=options.direct) for revision in revisions}
    except (SuiteError, NpmError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if all(conformant.values()) else 1


def _revision(revision: str, *, direct: bool) -> bool:
    """Run one revision every way, print its table; whether all is well."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as place, upstream() as url:
        columns = {"direct": run(url, revision)}
        ways: list[tuple[str, str, Identity | None]] = [("direct", url, None)]
        if direct:
            return _report(revision, columns, ways)
        folder = Path(place) / "gateway"
        prepare(folder, url)
        with gateway(folder) as door:
            certificate = identity(folder)
            ways += [
                ("certificate", f"{door}/mcp", certificate),
                ("certificate and token", f"{door}/mcp", with_token(door, certificate)),
            ]
            for name, target, who in ways[1:]:
                columns[name] = run(target, revision, who)
            return _report(revision, columns, ways)


def _report(revision: str, columns: dict[str, Column], ways: list[tuple[str, str, Identity | None]]) -> bool:
    names = required(revision)
    others = [name for name in columns["direct"] if name not in names]
    print(f"\n{revision:<48}" + "".join(f"{way:<24}" for way in columns))
    for name in [*names, *others]:
        verdicts = [column.get(name, MISSING) for column in columns.values()]
        mark = "" if name in names else "   (not required)"
        print(f"  {name:<46}" + "".join(f"{verdict!s:<24}" for verdict in verdicts) + mark)
    scores = {way: sum(column.get(name, MISSING).good for name in names) for way, column in columns.items()}
    print(f"  {len(names)} required" + " " * 36 + "".join(f"{score:<24}" for score in scores.values()))
    _explain(revision, names, columns, ways)
    alike = all(
        column.get(name) == columns["direct"].get(name) for column in columns.values() for name in names
    )
    complete = set(scores.values()) == {REVISIONS[revision]} and len(names) == REVISIONS[revision]
    print(f"{revision}: " + ("direct = through = all required" if complete and alike else "NOT conformant"))
    return complete and alike


def _explain(
    revision: str, names: list[str], columns: dict[str, Column], ways: list[tuple[str, str, Identity | None]]
) -> None:
    """Run what failed once more, for its reasons."""
    for way, url, who in ways:
        for name in names:
            if not columns[way].get(name, MISSING).good:
                for reason in failures(url, name, revision, who):
                    print(f"    {way}: {name}: {reason[:400]}")


if __name__ == "__main__":
    sys.exit(main())
