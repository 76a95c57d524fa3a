"""The administrative operations on sign-ins. A session is its family of tokens: it ends with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.operations.administration import Administration, Answer, Operation, UnknownError
from gateway.operations.pages import page_of
from gateway.operations.parameters import MAX_PAGE, Parameters, check_limit
from persistence.account_records import SessionRecord
from persistence.records import SESSIONS


class ListSessions(Parameters, frozen=True, kw_only=True):
    """A page of the sessions of one client, or of all, from the one after ``cursor``."""

    client_id: str | None = None
    limit: int = MAX_PAGE
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)


class OneSession(Parameters, frozen=True, kw_only=True):
    """A session, by its id."""

    session_id: str


async def _list(admin: Administration, wanted: ListSessions, _actor: str) -> Answer:
    page, cursor = await page_of(
        admin.stores.collection(SESSIONS),
        lambda session: session.session_id,
        wanted=lambda session: (
            wanted.client_id in {None, session.client_id}
            and admin.sees(session.tenant_id)
            and _is_live(admin, session)
        ),
        after=wanted.cursor,
        limit=wanted.limit,
    )
    return {"sessions": [_shown(session) for session in page], "next_cursor": cursor}


async def _show(admin: Administration, wanted: OneSession, _actor: str) -> Answer:
    return {"session": _shown(_known(admin, wanted.session_id))}


async def _end(admin: Administration, wanted: OneSession, actor: str) -> Answer:
    session = _known(admin, wanted.session_id)
    admin.require_whole_sign_in(session.client_id)
    entry = admin.entry(
        actor,
        "sessions.end",
        client_id=session.client_id,
        tenant_id=session.tenant_id,
        target=session.client_id,
        token_id=session.session_id,
    )
    await admin.stores.audit.append(entry)
    moment, tokens = admin.timestamp(), admin.stores.tokens
    # Again until none is left: another may have been issued while the first ones were written.
    while live := [each for each in tokens.of_family(session.session_id) if each.revoked_at is None]:
        await tokens.put(*(msgspec.structs.replace(each, revoked_at=moment) for each in live))
    return {"session_id": session.session_id}


def _known(admin: Administration, session_id: str) -> SessionRecord:
    """A live session that is there for whoever asks. Raises UnknownError."""
    session = admin.stores.collection(SESSIONS).get(session_id)
    if session is None or not admin.sees(session.tenant_id) or not _is_live(admin, session):
        raise UnknownError("there is no such session, or it has ended")
    return session


def _is_live(admin: Administration, session: SessionRecord) -> bool:
    token = admin.stores.tokens.get(session.refresh_id)
    return token is not None and token.revoked_at is None and token.exp > admin.now()


def _shown(session: SessionRecord) -> Answer:
    fields: Answer = msgspec.to_builtins(session)
    names = ("session_id", "client_id", "tenant_id", "address", "user_agent", "created_at", "last_used_at")
    return {name: fields[name] for name in names} | {"certificate": session.certificate_thumbprint}


SESSION_OPERATIONS: Final[Mapping[str, Operation[Any]]] = {
    "sessions.list": Operation(ListSessions, _list, changes=False),
    "sessions.show": Operation(OneSession, _show, changes=False),
    "sessions.end": Operation(OneSession, _end),
}
