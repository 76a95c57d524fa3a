"""The administrative operations on the store: one table, whoever asks.

The command line performs them itself while no server runs, and over the control socket while one does.
What is wrong whatever the store holds, the parameters themselves refuse; what is refused here depends on the store.

Every change is one audit entry with its actor, durable before the change is made: an entry too many is better than a
change that nobody knows of. Changes run one after the other, so that two of them on one client cannot undo each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.config.shapes import did_you_mean
from gateway.operations.administration import (
    Administration,
    Answer,
    Operation,
    ParameterError,
)
from gateway.operations.api_keys import API_KEY_OPERATIONS
from gateway.operations.audit import compress_audit, follow_audit, prune_audit, query_audit
from gateway.operations.certificates import CERTIFICATE_OPERATIONS
from gateway.operations.clients import CLIENT_OPERATIONS
from gateway.operations.erasure import ERASURE_OPERATIONS
from gateway.operations.invitations import INVITATION_OPERATIONS
from gateway.operations.keys import KEY_OPERATIONS
from gateway.operations.lockouts import LOCKOUT_OPERATIONS
from gateway.operations.mfa import MFA_OPERATIONS
from gateway.operations.parameters import (
    CompressAudit,
    FollowAudit,
    PruneAudit,
    QueryAudit,
)
from gateway.operations.pins import PIN_OPERATIONS
from gateway.operations.profiles import PROFILE_OPERATIONS
from gateway.operations.roles import ROLE_OPERATIONS
from gateway.operations.sessions import SESSION_OPERATIONS
from gateway.operations.tenants import TENANT_OPERATIONS
from gateway.operations.tokens import TOKEN_OPERATIONS

OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "audit.prune": Operation(PruneAudit, prune_audit),
    "audit.compress": Operation(CompressAudit, compress_audit),
    "audit.follow": Operation(FollowAudit, follow_audit, changes=False),
    "audit.query": Operation(QueryAudit, query_audit, changes=False),
    **CLIENT_OPERATIONS,
    **TOKEN_OPERATIONS,
    **KEY_OPERATIONS,
    **TENANT_OPERATIONS,
    **ROLE_OPERATIONS,
    **PIN_OPERATIONS,
    **ERASURE_OPERATIONS,
    **CERTIFICATE_OPERATIONS,
    **SESSION_OPERATIONS,
    **MFA_OPERATIONS,
    **INVITATION_OPERATIONS,
    **API_KEY_OPERATIONS,
    **LOCKOUT_OPERATIONS,
    **PROFILE_OPERATIONS,
}
"""Every operation, by the name that the control socket knows it by."""


async def perform(admin: Administration, operation: str, parameters: object, actor: str) -> Answer:
    """Perform one of OPERATIONS on parameters in plain types, for the operating-system user ``actor``.

    Raises ParameterError, OperationError where it is refused, StoreError where the store cannot answer.
    """
    return await _known_operation(operation).perform(admin, parameters, actor)


def check_parameters(operation: str, parameters: object) -> None:
    """Look for what is wrong whatever the store holds. Raises ParameterError."""
    _known_operation(operation).read(parameters)


def _known_operation(name: str) -> Operation[Any]:
    known = OPERATIONS.get(name)
    if known is None:
        raise ParameterError(f"no such operation; {did_you_mean(name, OPERATIONS)}")
    return known
