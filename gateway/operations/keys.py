"""The administrative operations on signing keys. The files are written by the command that asks for these."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from gateway.config.values import ConfigError
from gateway.operations.administration import Administration, Answer, Operation, OperationError
from gateway.operations.parameters import RetireKey, UseKeys
from persistence.records import DEFAULT_TENANT

_REVOKED_AT_A_TIME: Final = 500
"""Tokens in one write, so that others get their turn."""


async def _retire(admin: Administration, wanted: RetireKey, actor: str) -> Answer:
    """Enter it in the audit, and say when the last token of now expires: until then the key is needed."""
    await admin.stores.audit.append(
        admin.entry(actor, "keys.retire", tenant_id=DEFAULT_TENANT, target=wanted.kid)
    )
    return {"last_exp": max((token.exp for token in admin.stores.tokens), default=0)}


async def _use(admin: Administration, wanted: UseKeys, actor: str) -> Answer:
    """Go over to the keys that the files hold now."""
    await admin.stores.audit.append(
        admin.entry(actor, "keys.use", tenant_id=DEFAULT_TENANT, target=wanted.kid)
    )
    if admin.reload_keys is not None:
        try:
            kid = admin.reload_keys()
        except ConfigError as error:
            raise OperationError(f"the server keeps its old keys: {error.problems[0]}") from None
        if kid != wanted.kid:
            raise OperationError(f"the server signs with {kid}: is it run with another configuration?")
    revoked = await _revoke_all(admin) if wanted.revoke_all else 0
    return {"server_running": admin.reload_keys is not None, "revoked": revoked}


async def _revoke_all(admin: Administration) -> int:
    moment, count = admin.timestamp(), 0
    live = (token for token in admin.stores.tokens if token.revoked_at is None)
    while some := list(islice(live, _REVOKED_AT_A_TIME)):
        await admin.stores.tokens.put(*(msgspec.structs.replace(token, revoked_at=moment) for token in some))
        count += len(some)
    return count


KEY_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "keys.retire": Operation(RetireKey, _retire),
    "keys.use": Operation(UseKeys, _use),
}
