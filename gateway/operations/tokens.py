"""The administrative operations on tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from gateway.operations.administration import (
    Administration,
    Answer,
    Operation,
    UnknownError,
)
from gateway.operations.parameters import (
    ListTokens,
    OneToken,
    RevokeTokens,
)
from persistence.large import in_turns
from persistence.records import (
    TokenKind,
    TokenRecord,
)


async def _list(admin: Administration, wanted: ListTokens, _actor: str) -> Answer:
    store, start = admin.stores.tokens, wanted.cursor
    tokens: Iterable[TokenRecord] = store if wanted.client_id is None else store.of_client(wanted.client_id)
    seen, page, more = 0, [], False
    async for token in in_turns(tokens):
        if not admin.sees(token.tenant_id):
            continue
        more = seen >= start + wanted.limit
        if more:
            break
        if seen >= start:
            page.append(token)
        seen += 1
    if wanted.client_id is not None and not seen:
        admin.known_client(wanted.client_id)  # another tenant's is as unknown as one that is not there
    listed = [msgspec.to_builtins(token) for token in page]
    return {"tokens": listed, "next_cursor": start + wanted.limit if more else None}


async def _show(admin: Administration, wanted: OneToken, _actor: str) -> Answer:
    return {"token": msgspec.to_builtins(_token(admin, wanted.token_id))}


async def _revoke(admin: Administration, wanted: RevokeTokens, actor: str) -> Answer:
    client_id, live = _live_tokens(admin, wanted)
    admin.require_whole_sign_in(client_id)
    client = admin.stores.clients.get(client_id)
    if live:
        entry = admin.entry(
            actor,
            "tokens.revoke",
            client_id=client_id,
            tenant_id=live[0].tenant_id,
            event="token_revoked",
            target=wanted.token_id or client_id,
            token_id=wanted.token_id,
        )
        await admin.stores.audit.append(entry)
        _, live = _live_tokens(admin, wanted)  # and those that were issued meanwhile
    usable = client is not None and client.disabled_at is None and client.erased_at is None
    return {
        "revoked": await revoke(admin, live),
        "client_id": client_id,
        "certificate": client.certificate if client is not None and usable else None,
    }


def _live_tokens(admin: Administration, wanted: RevokeTokens) -> tuple[str, list[TokenRecord]]:
    """Whose tokens are meant, and which of these are live."""
    store = admin.stores.tokens
    if wanted.token_id is None:
        client_id = admin.known_client(wanted.client_id or "").client_id
        tokens = list(store.of_client(client_id))
    else:
        token = _token(admin, wanted.token_id)
        client_id, tokens = token.client_id, [token]
        if token.kind is TokenKind.REFRESH and token.family_id is not None:
            tokens += store.of_family(token.family_id)
    return client_id, [token for token in tokens if token.revoked_at is None and token.exp > admin.now()]


def _token(admin: Administration, token_id: str) -> TokenRecord:
    """A token that is there for whoever asks. Raises UnknownError."""
    token = admin.stores.tokens.get(token_id)
    if token is None or not admin.sees(token.tenant_id):
        raise UnknownError("there is no such token, or it has expired; `ostiary tokens list` shows all")
    return token


async def revoke(admin: Administration, tokens: Iterable[TokenRecord]) -> int:
    """End those that are live; how many they were. Raises StoreError."""
    moment = admin.timestamp()
    unique = {token.token_id: token for token in tokens if token.revoked_at is None}
    if unique:
        revoked = (msgspec.structs.replace(token, revoked_at=moment) for token in unique.values())
        await admin.stores.tokens.put(*revoked)
    return len(unique)


TOKEN_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "tokens.list": Operation(ListTokens, _list, changes=False),
    "tokens.show": Operation(OneToken, _show, changes=False),
    "tokens.revoke": Operation(RevokeTokens, _revoke),
}
