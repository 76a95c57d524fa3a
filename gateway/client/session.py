"""Signed in at one gateway: tokens are got, kept fresh, and ended.

TLS is always verified. A token is renewed when it is about to expire, and once more when the gateway says that it is no
longer good; while one process renews, others wait and take what it got.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Final, NoReturn, TypeVar

import msgspec

from gateway.client.answers import json_object, read_body, told
from gateway.client.errors import ClientError, LoginRequiredError, UnusableAnswerError
from gateway.client.given import TOKEN, TOKEN_VARIABLE, GivenCredential
from gateway.client.identities import Identities, Identity, StoredTokens
from gateway.outbound.client import ConnectError, Headers, HttpClient, OutboundError, Response
from gateway.outbound.response import TlsAlertError

ANSWER_SECONDS: Final = 30.0
"""How long the gateway may take over what it answers itself."""
_EARLY_SECONDS: Final = 60.0
"""A token is renewed so long before it expires, or a quarter of its life, if that is less."""
_JSON: Final = ("Content-Type", "application/json")

Answer = dict[str, Any]
T = TypeVar("T", bound=msgspec.Struct)


class _Granted(msgspec.Struct):
    """A token response (RFC 6749 section 5.1)."""

    access_token: Annotated[str, msgspec.Meta(pattern=rf"\A{TOKEN}\Z")]
    expires_in: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    refresh_token: str | None = None


class _Caller(msgspec.Struct):
    client_id: str


class _Enrolment(msgspec.Struct):
    secret: str
    otpauth_uri: Annotated[str, msgspec.Meta(pattern="^otpauth://", max_length=2000)]


class _RecoveryCodes(msgspec.Struct):
    recovery_codes: list[str]


def tls_context(identity: Identity) -> ssl.SSLContext:
    """Trusts the identity's CA and presents its certificate. Raises ClientError that names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if identity.ca is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(identity.ca)
        except ssl.SSLError:
            raise ClientError(f"{identity.ca} holds no CA certificate (PEM); name another file") from None
        except OSError as error:
            raise ClientError(f"{identity.ca}: {_why(error)}; name another file with --ca") from None
    if identity.certificate is None:
        return context
    named = " and ".join(name for name in (identity.certificate, identity.private_key) if name)
    try:
        context.load_cert_chain(identity.certificate, identity.private_key, _no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ClientError(f"{named} do not belong together; name the certificate's own key") from None
        if identity.private_key is None:
            raise ClientError(
                f"{named} holds no certificate and key (PEM); name its key with --key"
            ) from None
        raise ClientError(f"{named}: not a certificate and its key (PEM); name others") from None
    except OSError as error:
        raise ClientError(f"{named}: {_why(error)}; name others with --cert and --key") from None
    return context


def _no_password() -> NoReturn:
    raise ClientError("the private key has a password; keep it without one, in a 0600 file")


class Session:
    """One gateway, as one user. Made and used within a running event loop; ``close`` it."""

    def __init__(
        self,
        origin: str,
        identity: Identity,
        identities: Identities,
        *,
        now: Callable[[], float],
        certificate_alone: bool = False,
        given: GivenCredential | None = None,
    ) -> None:
        """``now``: seconds since the epoch. ``certificate_alone``: it is enough while nobody is signed in.

        ``given`` is presented in the place of what is stored, which is then neither read nor written.
        Raises ClientError where the identity's files cannot be used.
        """
        self._certificate_alone = certificate_alone and identity.certificate is not None
        self.origin = origin
        self.identity = identity
        self._identities = identities
        self._http = HttpClient(origin, ssl_context=tls_context(identity))
        self._now = now
        self._given = given

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    # Signing in and out

    async def sign_in(self, username: str, password: str, code: Callable[[], str]) -> None:
        """By password, and the second factor that ``code`` gives where one is wanted. Raises ClientError."""
        fields = {"username": username, "password": password}
        status, answer = await self._ask_json("/auth/login", fields)
        if "mfa_session_token" in answer:
            fields = {"mfa_session_token": str(answer["mfa_session_token"]), "code": code()}
            status, answer = await self._ask_json("/auth/login/mfa", fields)
        self._keep(self._granted(status, answer, "signing in"))

    async def sign_in_by_certificate(self) -> None:
        """By the certificate alone. Raises ClientError."""
        self._keep(await self._by_certificate())

    async def sign_out(self) -> str | None:
        """End the session at the gateway and forget it here; why the gateway did not end it, if so. Raises ClientError."""
        try:
            return await self._end()
        except LoginRequiredError:
            return None  # it has ended already
        except ClientError as error:
            return str(error)
        finally:
            with self._identities.folder.locked():
                self._identities.forget_tokens(self.origin)

    async def _end(self) -> str | None:
        status, answer = await self._ask_signed_in("POST", "/auth/logout")
        return None if status == 204 else _refusal(status, answer)

    # Tokens

    async def access_token(self, *, refused: str | None = None) -> str:
        """A token that is good now; ``refused`` is one that the gateway would not take. Raises ClientError."""
        tokens = self._identities.tokens(self.origin)
        if tokens is None:
            raise LoginRequiredError(self.origin, "nobody is signed in")
        if self._fresh(tokens, refused):
            return tokens.access_token
        lock = self._identities.folder.locked()
        await asyncio.to_thread(lock.__enter__)
        try:
            tokens = self._identities.tokens(self.origin)
            if tokens is None:
                raise LoginRequiredError(self.origin, "somebody has signed out")
            if not self._fresh(tokens, refused):
                tokens = await self._renewed(tokens)
                self._identities.keep(self.origin, tokens)
        finally:
            lock.__exit__(None, None, None)
        return tokens.access_token

    async def _token(self, refused: str | None) -> str | None:
        """As ``access_token``; None: what is presented cannot be renewed."""
        if self._given is not None:
            return None
        if self._certificate_alone and self._identities.tokens(self.origin) is None:
            return None
        return await self.access_token(refused=refused)

    def _presented(self, token: str | None) -> Headers:
        if self._given is not None:
            return [self._given.header]
        return [] if token is None else [("Authorization", f"Bearer {token}")]

    def _fresh(self, tokens: StoredTokens, refused: str | None) -> bool:
        early = min(_EARLY_SECONDS, tokens.lifetime / 4)
        return tokens.access_token != refused and tokens.expires_at - early > self._now()

    async def _renewed(self, tokens: StoredTokens) -> StoredTokens:
        if tokens.refresh_token is None:
            if self.identity.certificate is None:
                raise LoginRequiredError(self.origin, "the token has expired")
            return await self._by_certificate()
        status, answer = await self._ask_json("/auth/refresh", {"refresh_token": tokens.refresh_token})
        if status in {400, 401}:
            why = f"the session has ended ({told(answer)})"
            raise LoginRequiredError(self.origin, why)
        renewed = self._granted(status, answer, "renewing the token")
        if renewed.refresh_token is None:
            return msgspec.structs.replace(renewed, refresh_token=tokens.refresh_token)
        return renewed

    async def _by_certificate(self) -> StoredTokens:
        status, answer = await self._ask("GET", "/auth/token", [], None)
        return self._granted(status, answer, "signing in")

    def _granted(self, status: int, answer: Answer, what: str) -> StoredTokens:
        """What is in a token response. Raises ClientError."""
        if status != 200:
            raise ClientError(f"{self.origin}: {what} was refused: {_refusal(status, answer)}")
        granted = self.shaped(answer, _Granted)
        return StoredTokens(
            access_token=granted.access_token,
            expires_at=self._now() + granted.expires_in,
            lifetime=granted.expires_in,
            refresh_token=granted.refresh_token,
        )

    def shaped(self, answer: Answer, shape: type[T]) -> T:
        """The answer, as what it should be. Raises ClientError."""
        try:
            return msgspec.convert(answer, shape)
        except msgspec.ValidationError:
            raise UnusableAnswerError(
                f"{self.origin} answers something else than was asked; is it an Ostiary gateway?"
            ) from None

    def _keep(self, tokens: StoredTokens) -> None:
        with self._identities.folder.locked():
            self._identities.remember(self.origin, self.identity)
            self._identities.keep(self.origin, tokens)

    # Asking

    async def who_am_i(self) -> Answer:
        """What the gateway says of its caller, and when the token will be renewed at the latest. Raises ClientError."""
        answer = await self._done("GET", "/auth/me")
        self.shaped(answer, _Caller)
        tokens = None if self._given is not None else self._identities.tokens(self.origin)
        return answer | {"expires_at": None if tokens is None else int(tokens.expires_at)}

    async def enrol(self) -> Answer:
        """The secret of a new second factor, as the gateway gives it. Raises ClientError."""
        answer = await self._done("POST", "/auth/mfa/enrol")
        self.shaped(answer, _Enrolment)
        return answer

    async def confirm(self, code: str) -> list[str]:
        """Turn the second factor on by its first code; the recovery codes. Raises ClientError."""
        answer = await self._done("POST", "/auth/mfa/confirm", {"code": code})
        return self.shaped(answer, _RecoveryCodes).recovery_codes

    async def _done(self, method: str, target: str, fields: Mapping[str, str] | None = None) -> Answer:
        status, answer = await self._ask_signed_in(method, target, fields)
        if status != 200:
            raise ClientError(f"{self.origin}: {_refusal(status, answer)}")
        return answer

    async def _ask_signed_in(
        self, method: str, target: str, fields: Mapping[str, str] | None = None
    ) -> tuple[int, Answer]:
        """As ``_ask``, with a good token, once more with a new one where that is refused. Raises ClientError."""
        headers, body = ([], None) if fields is None else ([_JSON], msgspec.json.encode(fields))
        refused: str | None = None
        while True:
            token = None if self._given is not None else await self.access_token(refused=refused)
            status, answer = await self._ask(method, target, [*headers, *self._presented(token)], body)
            if status == 401 and self._given is not None:
                raise self._given_is_refused(answer)
            if status != 401 or refused is not None:
                return status, answer
            refused = token

    async def send(
        self, method: str, target: str, headers: Headers = (), body: bytes | None = None
    ) -> Response:
        """A request with a good token, once more with a new one where that is refused. Raises ClientError."""
        refused: str | None = None
        while True:
            token = await self._token(refused)
            response = await self._send(method, target, [*headers, *self._presented(token)], body)
            if response.status == 401 and self._given is not None:
                async with self.answering():
                    raise self._given_is_refused(json_object(await read_body(response)))
            if response.status != 401 or refused is not None or token is None:
                return response
            response.drain()
            refused = token

    def _given_is_refused(self, answer: Answer) -> ClientError:
        why = told(answer).rstrip(".")
        return ClientError(
            f"{self.origin} refuses the token of {TOKEN_VARIABLE} ({why}); set it to a good one"
        )

    async def _send(self, method: str, target: str, headers: Headers, body: bytes | None) -> Response:
        try:
            return await self._http.send(method, target, headers, body)
        except OutboundError as error:
            raise ClientError(f"{self.origin}: {_unreachable(error)}") from None

    async def _ask_json(self, target: str, fields: Mapping[str, str]) -> tuple[int, Answer]:
        return await self._ask("POST", target, [_JSON], msgspec.json.encode(fields))

    async def _ask(
        self, method: str, target: str, headers: Headers, body: bytes | None
    ) -> tuple[int, Answer]:
        """Status and JSON object of an answer. Raises ClientError where there is none."""
        async with self.answering():
            response = await self._send(method, target, headers, body)
            return response.status, json_object(await read_body(response))

    @contextlib.asynccontextmanager
    async def answering(self, seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
        """In here the gateway answers, and in time. Raises ClientError."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise ClientError(f"{self.origin} does not answer; try again later") from None


def _refusal(status: int, answer: Answer) -> str:
    return f"{status} {told(answer)}"


def _unreachable(error: OutboundError) -> str:
    said = str(error).rstrip(".")
    said = said[:1].lower() + said[1:] if not said.startswith("TLS") else said
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return f"{said}; name the CA of its certificate with --ca, and call it by a name in that certificate"
    if isinstance(error, TlsAlertError):
        return f"{said}; present a certificate that is good there: --cert F --key F"
    if isinstance(error, ConnectError):
        return f"{said}; is the gateway running there?"
    return f"{said}; is the client certificate, or its absence, accepted there?"


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
