"""The administrative operations on pinned tool definitions (see gateway/mcp/pinning.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.mcp.pinning import digest
from gateway.operations.administration import Administration, Answer, Operation, OperationError
from gateway.operations.parameters import Parameters
from persistence.records import DEFAULT_TENANT, TOOL_PINS, ToolPin


class SomeTools(Parameters, frozen=True, kw_only=True):
    """The tools of one upstream, or (None) of all; or one of them. ``digest``: only if what was seen is that."""

    upstream: str | None = None
    tool: str | None = None
    digest: str | None = None


async def _list(admin: Administration, wanted: SomeTools, _actor: str) -> Answer:
    return {"tools": [_shown(pin) for pin in _chosen(admin, wanted)]}


async def _approve(admin: Administration, wanted: SomeTools, actor: str) -> Answer:
    chosen = _chosen(admin, wanted)
    if wanted.digest is not None and any(digest(pin.seen) != wanted.digest for pin in chosen):
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
        for pin in chosen
        if pin.approved != pin.seen
    ]
    for pin in changed:
        target = f"{pin.pin_id}: sha256 {pin.approved_digest}"[:512]
        await admin.stores.audit.append(
            admin.entry(actor, "tools.approve", tenant_id=DEFAULT_TENANT, target=target)
        )
    await admin.stores.collection(TOOL_PINS).put(*changed)
    for upstream in {pin.upstream for pin in changed}:
        admin.on_pins_changed(upstream)
    return {"tools": [_shown(pin) for pin in changed]}


def _chosen(admin: Administration, wanted: SomeTools) -> list[ToolPin]:
    pins = sorted(admin.stores.collection(TOOL_PINS), key=lambda pin: pin.pin_id)
    found = [
        pin for pin in pins if wanted.upstream in {None, pin.upstream} and wanted.tool in {None, pin.tool}
    ]
    if not found and (wanted.upstream or wanted.tool):
        raise OperationError(
            "no such tool was seen; it is once the gateway runs with pinning; `ostiary tools list` shows all"
        )
    return found


def _shown(pin: ToolPin) -> Answer:
    status = "approved" if pin.approved == pin.seen else "changed" if pin.approved else "not approved"
    answer: Answer = msgspec.to_builtins(pin)
    return {**answer, "status": status, "seen_digest": digest(pin.seen)}


PIN_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "tools.list": Operation(SomeTools, _list, changes=False),
    "tools.approve": Operation(SomeTools, _approve),
}
