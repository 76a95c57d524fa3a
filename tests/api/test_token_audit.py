"""What the OAuth endpoints write into the audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.audit import Audit
from gateway.config.values import OnAuditFailure
from persistence.records import AuditEntry, AuditStatus, StoreError

if TYPE_CHECKING:
    from tests.api.conftest import World

CREATED = "2026-01-01T00:00:00.000Z"
URL = "https://gate.example"
PASSWORD = "Correct-Horse-7"


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


class FailingAudit:
    """An audit store on a full disk."""

    def has_room(self) -> bool:
        return True

    def append_soon(self, entry: AuditEntry) -> None:
        raise StoreError("no space left")

    async def append(self, entry: AuditEntry) -> None:
        raise StoreError("no space left")


# The audit


async def test_what_is_issued_is_in_the_audit(world: World) -> None:
    by_certificate = await world.get(cert="alice")
    by_password = await world.password()
    refreshed = await world.post("refresh", form={"refresh_token": by_password.body["refresh_token"]})
    await world.post("revoke", form={"token": refreshed.body["access_token"]}, cert="root")
    entries = await world.audited()
    assert [(entry.event, entry.client_id, entry.token_id) for entry in entries] == [
        ("token_issued", "alice", by_certificate.claims["jti"]),
        ("login", "alice", by_password.claims["jti"]),
        ("token_issued", "alice", by_password.claims["jti"]),
        ("token_refreshed", "alice", refreshed.claims["jti"]),
        ("token_revoked", "root", refreshed.claims["jti"]),
    ]
    for entry in entries:
        assert entry.status is AuditStatus.OK
        assert (entry.tenant_id, entry.address, entry.user_agent) == ("default", "192.0.2.1", "test/1")
        assert entry.request_id == "req-1"
        assert entry.duration_ms == 250.0
    assert [entry.target for entry in entries[:-1]] == [entry.token_id for entry in entries[:-1]]
    assert entries[0].certificate_thumbprint == world.thumbprint("alice")
    assert entries[-1].target == "alice"


async def test_who_is_refused_is_in_the_audit_with_the_name_that_was_claimed(world: World) -> None:
    refresh = (await world.password()).body["refresh_token"]
    await world.get(basic=("nobody", "x"))
    await world.post(form={"username": "alice", "password": "x"})
    await world.get(cert="stranger")
    await world.get(basic=("alice", PASSWORD), cert="bob")
    await world.change("alice", disabled_at=CREATED)
    await world.post("refresh", form={"refresh_token": refresh})
    entries = await world.audited("auth_failed")
    assert [(entry.client_id, entry.reason) for entry in entries] == [
        ("nobody", "invalid_credentials"),
        ("alice", "invalid_credentials"),
        (None, "certificate_unmapped"),
        ("alice", "certificate_mismatch"),
        ("alice", "client_disabled"),
    ]
    assert {entry.status for entry in entries} == {AuditStatus.FAILED}
    assert {entry.address for entry in entries} == {"192.0.2.1"}
    assert {entry.user_agent for entry in entries} == {"test/1"}


async def test_what_is_no_request_for_a_token_is_in_the_audit(world: World) -> None:
    answers = [
        await world.post(form={"grant_type": "authorization_code"}, cert="alice"),
        await world.post(form={"grant_type": "password"}, cert="alice"),
        await world.post("refresh", form={"grant_type": "password"}),
        await world.post("revoke", form={}, cert="alice"),
        await world.post(form=b"x=y", headers=[("Content-Type", "text/plain")], cert="alice"),
        await world.post(form={"scope": "x" * 100_000}, cert="alice"),
        await world.ask("HEAD", "/auth/token", cert="alice"),
    ]
    assert [answer.status for answer in answers] == [400, 400, 400, 400, 415, 413, 405]
    entries = await world.audited()
    assert [(entry.event, entry.reason, entry.target) for entry in entries] == [
        ("request_refused", "unsupported_grant_type", "/auth/token"),
        ("request_refused", "bad_request", "/auth/token"),
        ("request_refused", "unsupported_grant_type", "/auth/refresh"),
        ("request_refused", "bad_request", "/auth/revoke"),
        ("request_refused", "content_type", "/auth/token"),
        ("request_refused", "body_too_large", "/auth/token"),
        ("request_refused", "method_not_allowed", "/auth/token"),
    ]
    assert {entry.status for entry in entries} == {AuditStatus.DENIED}
    assert {entry.duration_ms for entry in entries} == {250.0}


async def test_a_stranger_who_looks_at_a_token_is_in_the_audit(world: World) -> None:
    answer = await world.get(cert="alice")
    form = {"token": answer.body["access_token"]}
    await world.post("introspect", form=form, cert="alice")
    await world.post("introspect", form={"token": "x.y.z"}, cert="bob")
    assert await world.audited("access_denied") == []
    await world.post("introspect", form=form, cert="bob")
    await world.post("revoke", form=form, cert="alice")
    await world.post("introspect", form=form, cert="bob")
    entries = await world.audited("access_denied")
    assert len(entries) == 2, "that it was revoked makes no difference"
    for entry in entries:
        assert (entry.status, entry.reason) == (AuditStatus.DENIED, "permission_denied")
        assert (entry.client_id, entry.target) == ("bob", "alice")
        assert (entry.token_id, entry.duration_ms) == (answer.claims["jti"], 250.0)


async def test_no_secret_reaches_the_audit_or_the_store(world: World, tmp_path: Path) -> None:
    body = (await world.password()).body
    await world.get(basic=("alice", "Wrong-Horse-8"))
    await world.audited()
    await world.stores.close()
    content = everything_in(tmp_path)
    for secret in (PASSWORD, "Wrong-Horse-8", *body["access_token"].split(".")[1:], body["refresh_token"]):
        assert secret.encode() not in content


async def test_no_audit_no_token(world: World) -> None:
    token = (await world.get(cert="alice")).body["access_token"]
    refresh = (await world.password()).body["refresh_token"]
    failing: Any = FailingAudit()
    world.use_audit(Audit(failing, OnAuditFailure.REFUSE, now=world.clock, monotonic=world.clock))
    for answer in (
        await world.get(cert="alice"),
        await world.password(),
        await world.post("refresh", form={"refresh_token": refresh}),
        await world.post("revoke", form={"token": token}, cert="alice"),
    ):
        assert answer.error == (503, "temporarily_unavailable", "store_unavailable")
    assert world.works(token, "alice"), "what could not be audited was not done"
    world.use_audit(Audit(failing, OnAuditFailure.LOG, now=world.clock, monotonic=world.clock))
    assert (await world.get(cert="alice")).status == 200


async def test_a_store_that_takes_no_writes_gives_no_token(world: World) -> None:
    await world.stores.close()
    answer = await world.get(cert="alice")
    assert answer.error == (503, "temporarily_unavailable", "store_unavailable")
