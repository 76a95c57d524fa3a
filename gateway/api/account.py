"""One's own account: signing in and out, the password, and one's sessions.

An API key may do none of this, nor may a token that was had with one, nor a token that was narrowed: they stand for the
client at work, not for whoever owns the account.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.api.issuing import Issuing, MfaRequired, TokenAnswer
from gateway.api.oauth import NO_STORE, Parameters, Secret
from gateway.audit import Audit
from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest, Route, read_body
from gateway.identity.accounts import Accounts
from gateway.identity.sessions import Sessions
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from gateway.strict_json import StrictJsonError, parse_object
from persistence.account_records import SessionRecord
from persistence.records import ClientRecord, TokenRecord

MAX_BODY: Final = 16 * 1024
SESSIONS_PATH: Final = "/auth/sessions/"

Text = Annotated[str, Meta(min_length=1, max_length=1024)]
B = TypeVar("B", bound=msgspec.Struct)


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who signs in. Its repr shows nothing."""

    username: Text
    password: Text
    scope: Annotated[str, Meta(max_length=4096)] | None = None

    def __repr__(self) -> str:
        return "Login(…)"


class ChangePassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The old and the new one. Its repr shows nothing."""

    current_password: Text
    new_password: Text

    def __repr__(self) -> str:
        return "ChangePassword(…)"


class SessionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in that goes on. ``certificate``: ``x5t#S256``."""

    session_id: str
    address: str | None
    user_agent: str | None
    certificate: str | None
    created_at: str
    last_used_at: str
    current: bool


class SessionList(msgspec.Struct, frozen=True, kw_only=True):
    """One's own sessions."""

    sessions: list[SessionAnswer]


class AccountEndpoint:
    """The handlers."""

    def __init__(self, *, issuing: Issuing, accounts: Accounts, audit: Audit) -> None:
        self._issuing = issuing
        self._door = issuing.door
        self._sessions: Sessions = issuing.sessions
        self._accounts = accounts
        self._audit = audit

    def routes(self) -> dict[str, dict[str, Route]]:
        """By path and method."""
        return {
            "/auth/login": {"POST": Route(self.login, identify=False)},
            "/auth/logout": {"POST": Route(self.logout)},
            "/auth/health": dict.fromkeys(("GET", "HEAD"), Route(self.health, identify=False)),
            "/auth/change-password": {"POST": Route(self.change_password)},
            "/auth/sessions": {"GET": Route(self.list_sessions), "DELETE": Route(self.end_others)},
            SESSIONS_PATH: {"DELETE": Route(self.end_session)},
        }

    # In and out

    @described(
        Description(
            "Begins a session for a name and its password.",
            {200: (TokenAnswer, MfaRequired)},
            body=Login,
            refusals=(401, 429, 503),
        )
    )
    async def login(self, request: GatewayRequest, inbound: Inbound, _context: ClientContext) -> web.Response:
        """``POST /auth/login``: a session for a name and its password."""
        return await self._door.answer_problem(request, inbound, self._login)

    async def _login(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        wanted = await json_body(request, Login)
        if inbound.authorization or inbound.api_keys:
            raise Refused(Deny(Reason.AMBIGUOUS_CREDENTIALS, "Sign in with the name and the password alone."))
        secret = Secret(wanted.username, (wanted.password,))
        client = await self._door.prove(inbound, secret, Parameters())
        self._door.limit(client.client_id, inbound)
        scope = self._issuing.scope(client, wanted.scope, inbound.peer)
        return await self._issuing.by_password(inbound, client, scope, session=True)

    @described(Description("Ends the session of the token, or the token where there is none.", {204: None}))
    async def logout(
        self, _request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``POST /auth/logout``: ends the session that the token is of, or the token where there is none."""
        owner(context, any_scope=True)
        token = self._token(context)
        session = self._current(token)
        await self._audit.did("logout", inbound, context)
        if session is not None:
            await self._sessions.end(session)
        if token is not None:
            await self._issuing.tokens.end(token)
        return web.Response(status=204, headers=NO_STORE)

    @described(Description("Whether accounts can be used.", {200: dict[str, str], 503: dict[str, str]}))
    async def health(
        self, _request: GatewayRequest, _inbound: Inbound, _context: ClientContext
    ) -> web.Response:
        """``GET /auth/health``: whether signing in works."""
        healthy = self._accounts.healthy
        return web.json_response(
            {"status": "ok" if healthy else "unavailable"}, status=200 if healthy else 503, headers=NO_STORE
        )

    # The password

    @described(
        Description(
            "Changes the password; every other session ends.",
            {200: dict[str, int]},
            body=ChangePassword,
            refusals=(409,),
        )
    )
    async def change_password(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``POST /auth/change-password``: the other sessions end."""
        client_id = owner(context)
        wanted = await json_body(request, ChangePassword)
        certified = context.certificate_thumbprint is not None
        proven = await self._door.check_password(
            inbound, client_id, wanted.current_password, certified=certified
        )

        async def recorded(_client: ClientRecord) -> None:
            require_still_in(request)  # checking passwords takes a while
            await self._audit.did("password_changed", inbound, context)

        refusal = await self._accounts.change_password(proven, wanted.new_password, recorded)
        if refusal is not None:
            raise Refused(refusal)
        ended = await self._sessions.end_but(client_id, self._token(context))
        return web.json_response({"tokens_revoked": ended}, headers=NO_STORE)

    # Sessions

    @described(Description("One's own sessions.", {200: SessionList}))
    async def list_sessions(
        self, _request: GatewayRequest, _inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``GET /auth/sessions``"""
        client_id = owner(context)
        current = self._current(self._token(context))
        listed = [session_answer(each, current) for each in self._sessions.of_client(client_id)]
        return json_answer(SessionList(sessions=listed))

    @described(Description("Ends all sessions but this one.", {200: dict[str, int]}))
    async def end_others(
        self, _request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``DELETE /auth/sessions``: all but this one."""
        client_id = owner(context)
        current = self._current(self._token(context))
        kept = None if current is None else current.session_id
        others = [each for each in self._sessions.of_client(client_id) if each.session_id != kept]
        for each in others:
            await self._audit.did("session_ended", inbound, context, each.session_id)
        await self._sessions.end(*others)
        return web.json_response({"ended": len(others)}, headers=NO_STORE)

    @described(Description("Ends one session.", {204: None}, refusals=(404,), template="{session_id}"))
    async def end_session(
        self, _request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``DELETE /auth/sessions/{session_id}``"""
        client_id = owner(context)
        session = self._sessions.get(inbound.path.removeprefix(SESSIONS_PATH))
        if session is None or session.client_id != client_id:
            raise Refused(
                Deny(Reason.SESSION_UNKNOWN, "There is no such session: GET /auth/sessions lists yours.")
            )
        await self._audit.did("session_ended", inbound, context, session.session_id)
        await self._sessions.end(session)
        return web.Response(status=204, headers=NO_STORE)

    def _token(self, context: ClientContext) -> TokenRecord | None:
        return None if context.token_id is None else self._issuing.tokens.get(context.token_id)

    def _current(self, token: TokenRecord | None) -> SessionRecord | None:
        if token is None or token.family_id is None:
            return None
        return self._sessions.get(token.family_id)


def session_answer(session: SessionRecord, current: SessionRecord | None) -> SessionAnswer:
    """A session for its owner."""
    return SessionAnswer(
        session_id=session.session_id,
        address=session.address,
        user_agent=session.user_agent,
        certificate=session.certificate_thumbprint,
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        current=current is not None and current.session_id == session.session_id,
    )


def json_answer(answer: object, status: int = 200) -> web.Response:
    """JSON that nobody keeps."""
    body = msgspec.json.encode(answer)
    return web.Response(body=body, status=status, content_type="application/json", headers=NO_STORE)


def signed_in(context: ClientContext) -> str:
    """The client that it is, however it was proven. Raises Refused for nobody."""
    if context.client_id is None:
        detail = "Sign in first: POST /auth/login."
        raise Refused(Deny(Reason.AUTHENTICATION_REQUIRED, detail))
    return context.client_id


def owner(context: ClientContext, *, scope: str = "", any_scope: bool = False) -> str:
    """The client whose account it is. Raises Refused for nobody, and for whoever is not its owner.

    That is an API key, and a token that was narrowed, unless it was to exactly ``scope`` or may be to anything.
    """
    client_id = signed_in(context)
    if context.api_key_id is not None:
        detail = "An API key is not for the account itself: sign in, or use the certificate."
        raise Refused(Deny(Reason.PERMISSION_DENIED, detail, client_id=client_id))
    if not any_scope and context.scope not in {"", scope}:
        detail = "A token that was narrowed is not for the account itself: sign in without a scope."
        raise Refused(Deny(Reason.PERMISSION_DENIED, detail, client_id=client_id))
    return client_id


def require_still_in(request: GatewayRequest) -> None:
    """To be asked after what takes a while, before anything is changed: the session may have been ended. Raises Refused."""
    if request.readmit is not None:
        request.readmit()


async def json_body(request: GatewayRequest, shape: type[B]) -> B:
    """The JSON object in the body. Raises Refused."""
    if request.content_type != "application/json":
        raise Refused(Deny(Reason.CONTENT_TYPE, "Send application/json, in UTF-8."))
    body = await read_body(request, MAX_BODY)
    try:
        return msgspec.convert(parse_object(body), shape)
    except StrictJsonError as error:
        raise Refused(Deny(Reason.BAD_REQUEST, f"The body is not acceptable: {error}.")) from None
    except msgspec.ValidationError as error:
        # It names fields and types; a value could be a password.
        raise Refused(
            Deny(Reason.BAD_REQUEST, f"The body is not acceptable: {_shape_problem(error)}.")
        ) from None


def _shape_problem(error: msgspec.ValidationError) -> str:
    return str(error).encode("ascii", "replace").decode()[:200]
