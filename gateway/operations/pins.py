"""The administrative operations on pinned definitions (see gateway/mcp/pinning.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from gateway.mcp.pinning import digest
from gateway.operations.administration import Administration, Answer, Operation, OperationError
from gateway.operations.parameters import Parameters
from persistence.records import DEFAULT_TENANT, TOOL_PINS, ToolPin


class SomePins(Parameters, frozen=True, kw_only=True):
    """The pins of one upstream, or (None) of all; of one kind; of one name (``tool``).

    ``digest``: only if what was seen is that: the definition's own where one is named, else that of all that differ.
    """

    upstream: str | None = None
    tool: str | None = None
    kind: str | None = None
    digest: str | None = None


async def _list(admin: Administration, wanted: SomePins, _actor: str) -> Answer:
    chosen = _chosen(admin, wanted)
    return {"tools": [_shown(pin) for pin in chosen], "digest": _digest_of_all(chosen)}


async def _approve(admin: Administration, wanted: SomePins, actor: str) -> Answer:
    chosen = _chosen(admin, wanted)
    if wanted.digest is not None and _digest_wanted(chosen, wanted) != wanted.digest:
        raise OperationError(
            "the definition is no longer the one of that digest; `ostiary tools diff` shows it"
        )
    changed = [
        msgspec.structs.replace(
            pin,
            approved=pin.seen,
            approved_digest=digest(pin.seen),
            approved_at=admin.timestamp(),
            approved_by=actor,
        )
        for pin in (chosen if wanted.tool is not None else _differing(chosen))
        if pin.approved != pin.seen
    ]
    for pin in changed:
        await _enter(admin, actor, "tools.approve", f"{pin.pin_id}: sha256 {pin.approved_digest}")
    await admin.stores.collection(TOOL_PINS).put(*changed)
    _tell(admin, changed)
    return {"tools": [_shown(pin) for pin in changed]}


async def _forget(admin: Administration, wanted: SomePins, actor: str) -> Answer:
    """Remove the pins of what is listed no more; of one that is named, wherever it is."""
    removed = [pin for pin in _chosen(admin, wanted) if wanted.tool is not None or pin.gone_since is not None]
    for pin in removed:
        await _enter(admin, actor, "tools.forget", pin.pin_id)
    await admin.stores.collection(TOOL_PINS).remove(*(pin.pin_id for pin in removed))
    _tell(admin, removed)
    return {"tools": [_shown(pin) for pin in removed]}


async def _enter(admin: Administration, actor: str, what: str, target: str) -> None:
    await admin.stores.audit.append(admin.entry(actor, what, tenant_id=DEFAULT_TENANT, target=target[:512]))


def _tell(admin: Administration, pins: Iterable[ToolPin]) -> None:
    for upstream in {pin.upstream for pin in pins}:
        admin.on_pins_changed(upstream)


def _chosen(admin: Administration, wanted: SomePins) -> list[ToolPin]:
    pins = sorted(admin.stores.collection(TOOL_PINS), key=lambda pin: pin.pin_id)
    found = [
        pin
        for pin in pins
        if wanted.upstream in {None, pin.upstream}
        and wanted.tool in {None, pin.tool}
        and wanted.kind in {None, pin.kind}
    ]
    if not found and (wanted.upstream or wanted.tool):
        raise OperationError(
            "no such tool was seen; it is once the gateway runs with pinning; `ostiary tools list` shows all"
        )
    if wanted.tool is not None and len({pin.kind for pin in found}) > 1:
        kinds = ", ".join(sorted({pin.kind for pin in found}))
        raise OperationError(f"there are several of that name ({kinds}): name one with --kind")
    return found


def _differing(pins: list[ToolPin]) -> list[ToolPin]:
    """Those that are there, and not as they were approved."""
    return [pin for pin in pins if pin.gone_since is None and pin.approved != pin.seen]


def _digest_wanted(chosen: list[ToolPin], wanted: SomePins) -> str:
    if wanted.tool is None:
        return _digest_of_all(chosen)
    return digest(chosen[0].seen) if len(chosen) == 1 else ""


def _digest_of_all(pins: list[ToolPin]) -> str:
    """What was read, if all that differs was."""
    return digest("".join(f"{pin.pin_id}\0{digest(pin.seen)}\n" for pin in _differing(pins)))


def _shown(pin: ToolPin) -> Answer:
    status = "approved" if pin.approved == pin.seen else "changed" if pin.approved else "not approved"
    if pin.gone_since is not None:
        status = "gone"
    answer: Answer = msgspec.to_builtins(pin)
    return {**answer, "status": status, "seen_digest": digest(pin.seen)}


PIN_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "tools.list": Operation(SomePins, _list, changes=False),
    "tools.approve": Operation(SomePins, _approve),
    "tools.forget": Operation(SomePins, _forget),
}
