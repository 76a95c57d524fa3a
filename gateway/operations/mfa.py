"""The administrative operations on second factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.identity.sealing import SealingError
from gateway.identity.second_factors import SecondFactors
from gateway.operations.administration import Administration, Answer, Operation, OperationError
from gateway.operations.lockouts import lockouts_of
from gateway.operations.parameters import OneClient, Parameters
from persistence.records import DEFAULT_TENANT


class RotateMfaKey(Parameters, frozen=True, kw_only=True):
    """Nothing is to be told."""


async def _reset(admin: Administration, wanted: OneClient, actor: str) -> Answer:
    """For a phone that was lost: the next sign-in needs no code, and may enrol anew."""
    client = admin.changeable_client(wanted.client_id)
    admin.require_another(client.client_id, "your own second factor is turned off by POST /auth/mfa/disable")
    factors = _factors(admin)
    entry = admin.entry(
        actor,
        "clients.mfa_reset",
        client_id=client.client_id,
        tenant_id=client.tenant_id,
        target=client.client_id,
    )
    await admin.stores.audit.append(entry)
    await lockouts_of(admin).unlock(client.client_id)
    return {"client_id": client.client_id, "reset": await factors.remove(client.client_id)}


async def _rotate(admin: Administration, _wanted: RotateMfaKey, actor: str) -> Answer:
    """Seal every secret with a new key."""
    factors = _factors(admin)
    entry = admin.entry(actor, "mfa.rotate_key", tenant_id=DEFAULT_TENANT, target="all second factors")
    await admin.stores.audit.append(entry)
    try:
        return {"sealed": await factors.rotate_key()}
    except SealingError as error:
        raise OperationError(str(error)) from None


def _factors(admin: Administration) -> SecondFactors:
    if admin.second_factors is None:
        raise OperationError("second factors are not at hand here; ask the running server")
    return admin.second_factors


MFA_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "clients.mfa_reset": Operation(OneClient, _reset),
    "mfa.rotate_key": Operation(RotateMfaKey, _rotate),
}
