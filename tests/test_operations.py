"""The administrative operations on a real store: what they change, what they refuse, and what the audit keeps of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.clock import rfc3339
from gateway.identity.clients import SCHEME, Hasher
from gateway.identity.lockouts import Lockouts
from gateway.identity.tenants import known_clients
from gateway.model import ClientContext, Inbound, Permissions
from gateway.operations.administration import (
    Administration,
    Caller,
    ForbiddenError,
    OperationError,
    ParameterError,
    UnknownError,
)
from gateway.operations.parameters import AddClient, SetPassword
from gateway.operations.table import OPERATIONS, check_parameters, perform
from persistence import open_stores
from persistence.protocols import Stores
from persistence.records import (
    LOCKOUTS,
    PASSWORD_HISTORIES,
    AuditEntry,
    AuditQuery,
    AuditStatus,
    StoreError,
    TokenKind,
    TokenRecord,
)

NOW = 1_800_000_000.0
ROLES = {"admin": ("*:*",), "analyst": ("files:read",)}


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    stores = await open_stores(tmp_path / "persistence", now=lambda: NOW)
    yield stores
    await stores.close()


@pytest.fixture
def admin(stores: Stores) -> Administration:
    return Administration(
        stores=stores,
        roles=lambda: ROLES,
        now=lambda: NOW,
        hasher=Hasher(rounds=4),
        lockouts=Lockouts(stores, 3, now=lambda: NOW),
    )


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def do(admin: Administration, operation: str, **parameters: object) -> dict[str, Any]:
    """The answer of an operation as it goes over the control socket."""
    answer: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(await perform(admin, operation, parameters, "alice"))
    )
    return answer


async def audit_of(admin: Administration) -> list[AuditEntry]:
    """Every entry, oldest first."""
    return list(reversed((await admin.stores.audit.query(AuditQuery(limit=1000))).entries))


def token(token_id: str, client_id: str = "bob", **more: Any) -> TokenRecord:
    facts = {"kind": TokenKind.ACCESS, "exp": int(NOW) + 60, "created_at": rfc3339(NOW), **more}
    return TokenRecord(token_id=token_id, client_id=client_id, **facts)


async def test_a_client_is_added_shown_and_listed_without_its_hash(admin: Administration) -> None:
    await do(admin, "tenants.add", tenant_id="acme")
    added = await do(
        admin,
        "clients.add",
        client_id="bob",
        roles=["analyst", "analyst"],
        permissions=["platform:*"],
        tenant_id="acme",
        password="Correct-horse-1",
    )
    client = added["client"]
    assert (client["client_id"], client["username"], client["tenant_id"]) == ("bob", "bob", "acme")
    assert (client["roles"], client["permissions"]) == (["analyst"], ["platform:*"])
    assert (client["certificate"], client["require_certificate"], client["has_password"]) == (
        "bob",
        False,
        True,
    )
    assert await do(admin, "clients.show", client_id="bob") == added
    assert await do(admin, "clients.list") == {"clients": [client], "next_cursor": None}
    assert "hash" not in str(added).replace("has_password", "")
    record = admin.stores.clients.get("bob")
    assert record is not None
    assert (record.password_hash or "").startswith(SCHEME)


async def test_every_change_is_one_entry_with_its_actor(admin: Administration) -> None:
    await do(admin, "tenants.add", tenant_id="acme")
    await do(admin, "clients.add", client_id="bob", tenant_id="acme")
    await do(admin, "clients.disable", client_id="bob")
    await do(admin, "clients.enable", client_id="bob")
    await do(admin, "clients.set_password", client_id="bob", password="Correct-horse-1")
    await do(admin, "clients.roles", client_id="bob", add_roles=["analyst"])
    await admin.stores.tokens.put(token("t1", tenant_id="acme"))
    await do(admin, "tokens.revoke", token_id="t1")
    entries = (await audit_of(admin))[1:]
    assert [(entry.event, entry.method, entry.target) for entry in entries] == [
        ("admin_change", "clients.add", "bob"),
        ("admin_change", "clients.disable", "bob"),
        ("admin_change", "clients.enable", "bob"),
        ("admin_change", "clients.set_password", "bob"),
        ("admin_change", "clients.roles", "bob: analyst"),
        ("token_revoked", "tokens.revoke", "t1"),
    ]
    for entry in entries:
        assert (entry.actor, entry.client_id, entry.tenant_id) == ("alice", "bob", "acme")
        assert (entry.status, entry.timestamp) == (AuditStatus.OK, rfc3339(NOW))


async def test_what_changes_nothing_leaves_no_entry(admin: Administration) -> None:
    await do(admin, "clients.add", client_id="bob", roles=["analyst"])
    await do(admin, "clients.enable", client_id="bob")
    await do(admin, "clients.roles", client_id="bob", add_roles=["analyst"])
    await do(admin, "clients.roles", client_id="bob")
    await do(admin, "tokens.revoke", client_id="bob")
    await do(admin, "clients.unlock", client_id="bob")
    with pytest.raises(OperationError):
        await do(admin, "clients.add", client_id="bob")
    assert len(await audit_of(admin)) == 1


async def test_a_certificate_is_recorded_with_the_client_that_it_names(admin: Administration) -> None:
    await do(admin, "tenants.add", tenant_id="acme")
    await do(admin, "clients.add", client_id="bob", tenant_id="acme", certificate="bob-7")
    print_7 = {"name": "bob-7", "certificate_thumbprint": "p7"}
    assert await do(admin, "certs.issue", **print_7, certificate="bob-7") == {"client_id": "bob"}
    assert await do(admin, "certs.issue", **print_7, certificate="zoe") == {"client_id": None}
    assert await do(admin, "certs.issue", **print_7) == {"client_id": None}
    first, *others = (await audit_of(admin))[2:]
    assert (first.event, first.method, first.target) == ("admin_change", "certs.issue", "bob-7")
    assert (first.certificate_thumbprint, first.actor) == ("p7", "alice")
    assert (first.client_id, first.tenant_id) == ("bob", "acme")
    assert [(entry.client_id, entry.tenant_id) for entry in others] == [(None, "default")] * 2


async def test_what_is_wrong_whatever_the_store_holds_is_told_apart(admin: Administration) -> None:
    for operation, parameters in (
        ("clients.ad", {}),
        ("clients.add", {"client_id": "a b"}),
        ("clients.roles", {"client_id": "nobody", "add_permissions": ["x"]}),
        ("audit.query", {"until": "tomorrow"}),
        ("tokens.revoke", {}),
    ):
        with pytest.raises(ParameterError):
            check_parameters(operation, parameters)
        with pytest.raises(ParameterError):
            await do(admin, operation, **parameters)
    with pytest.raises(OperationError) as caught:
        await do(admin, "clients.add", client_id="bob", roles=["nobody"])
    assert not isinstance(caught.value, ParameterError)


async def test_no_audit_no_action(admin: Administration, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_entry: AuditEntry) -> None:
        raise StoreError("audit.json: the disk is full; make room")

    monkeypatch.setattr(admin.stores.audit, "append", full)
    with pytest.raises(StoreError):
        await do(admin, "clients.add", client_id="bob")
    assert admin.stores.clients.get("bob") is None


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"client_id": ""}, "1 to 128 letters"),
        ({"client_id": "-bob"}, "a letter or digit first"),
        ({"client_id": "b" * 129}, "1 to 128 letters"),
        ({"client_id": "bob\n"}, "1 to 128 letters"),
        ({"client_id": "bob:7"}, "1 to 128 letters"),
        ({"client_id": "none"}, "choose another name"),
        ({"client_id": "bob", "roles": ["a b"]}, "not a role's name"),
        ({"client_id": "bob", "tenant_id": "A C"}, "tenant"),
        ({"client_id": "bob", "roles": ["analist"]}, 'did you mean "analyst"?'),
        ({"client_id": "bob", "permissions": ["read"]}, 'write "resource:action"'),
        ({"client_id": "bob", "password": "short"}, "8 to 128 characters"),
        ({"client_id": "bob", "certificate": "taken"}, "belong to holder"),
        ({"client_id": "taken"}, "belong to holder"),
        ({"client_id": "bob", "certificate": "a,b"}, "no certificate can yield"),
        ({"client_id": "bob", "certificate": "none", "require_certificate": True}, "cannot require one"),
        ({"client_id": "holder"}, "is taken"),
        ({"client_id": 7}, "wrong parameters"),
        ({"client_id": "bob", "is_admin": True}, "wrong parameters"),
        ({}, "wrong parameters"),
    ],
)
async def test_a_client_that_cannot_be_added(
    admin: Administration, parameters: dict[str, object], why: str
) -> None:
    await do(admin, "clients.add", client_id="holder", certificate="taken")
    with pytest.raises(OperationError) as caught:
        await do(admin, "clients.add", **parameters)
    assert why in str(caught.value)
    assert [client.client_id for client in admin.stores.clients] == ["holder"]


async def test_names_as_people_and_workloads_have_them(admin: Administration) -> None:
    for name in ("bob@example.org", "example.org/ns/a", "7", "a.b_c-d+e"):
        await do(admin, "clients.add", client_id=name)
    spiffe = "spiffe://example.org/ns/a"
    added = await do(admin, "clients.add", client_id="a", certificate=spiffe)
    assert added["client"]["certificate"] == spiffe
    await do(admin, "clients.add", client_id="no-certificate", certificate="none")
    assert (await do(admin, "clients.show", client_id="no-certificate"))["client"]["certificate"] is None


async def test_an_unknown_client_gets_the_name_that_was_meant(admin: Administration) -> None:
    await do(admin, "clients.add", client_id="reporting")
    for operation in sorted(OPERATIONS):
        if operation.startswith("clients.") and operation not in {"clients.add", "clients.list"}:
            password = {"password": "Correct-horse-1"} if operation == "clients.set_password" else {}
            with pytest.raises(OperationError, match='did you mean "reporting"'):
                await do(admin, operation, client_id="reportin", **password)
    with pytest.raises(OperationError, match="`ostiary clients list`"):
        await do(admin, "clients.show", client_id="xyz")
    with pytest.raises(OperationError, match="no such operation"):
        await do(admin, "clients.ad")


async def test_roles_and_permissions_are_replaced_added_and_removed(admin: Administration) -> None:
    await do(admin, "clients.add", client_id="bob", roles=["admin"], permissions=["a:b"])
    changed = await do(admin, "clients.roles", client_id="bob", add_roles=["analyst"], remove_roles=["admin"])
    assert changed["client"]["roles"] == ["analyst"]
    changed = await do(admin, "clients.roles", client_id="bob", roles=["admin"], permissions=[])
    assert (changed["client"]["roles"], changed["client"]["permissions"]) == (["admin"], [])
    with pytest.raises(OperationError, match="has no role 'analyst'"):
        await do(admin, "clients.roles", client_id="bob", remove_roles=["analyst"])
    with pytest.raises(OperationError, match="not a permission"):
        await do(admin, "clients.roles", client_id="bob", add_permissions=["x"])
    with pytest.raises(OperationError, match="no such role"):
        await do(admin, "clients.roles", client_id="bob", roles=["nobody"])


async def test_an_erased_client_leaves_only_what_keeps_its_names_from_others(
    stores: Stores, admin: Administration, tmp_path: Path
) -> None:
    await do(
        admin,
        "clients.add",
        client_id="bobby-tables",
        certificate="bob-7-certificate",
        password="Correct-horse-1",
        roles=["admin"],
    )
    of_bob = [token(name, "bobby-tables", certificate_thumbprint="bobs-print") for name in ("t1", "t2")]
    await admin.stores.tokens.put(*of_bob, token("of carl", "carl"))
    for path in ("clients/bobby-tables", "exports/bobby%2Dtables", "email-codes/bobby-tables"):
        refused = AuditEntry(
            timestamp=rfc3339(NOW),
            event="access_denied",
            status=AuditStatus.DENIED,
            client_id="carl",
            target=f"/admin/api/{path}",
        )
        await admin.stores.audit.append(refused)
    erased = await do(admin, "clients.erase", client_id="bobby-tables")
    assert erased["revoked"] == 2
    assert admin.stores.clients.get("bobby-tables") is None
    assert [t.token_id for t in admin.stores.tokens if t.revoked_at is None] == ["of carl"]
    for operation in ("clients.enable", "clients.roles", "clients.show"):
        with pytest.raises(OperationError, match="no client of that name"):
            await do(admin, operation, client_id="bobby-tables")
    with pytest.raises(OperationError, match="names are not given twice"):
        await do(admin, "clients.add", client_id="bobby-tables")
    with pytest.raises(OperationError, match="are somebody else's"):
        await do(admin, "clients.add", client_id="carl", certificate="bob-7-certificate")
    known = known_clients(admin.stores)
    for again in (known.get("bobby-tables"), known.by_certificate("bob-7-certificate")):
        assert again is not None
        assert (again.client_id, again.erased_at) == ("erased", rfc3339(NOW))
    *entries, last = await audit_of(admin)
    by_carl = [entry for entry in entries if entry.client_id == "carl"]
    assert [entry.target for entry in by_carl] == [None] * 3, "the paths named it"
    assert {entry.client_id for entry in entries} == {last.client_id, "carl"}
    assert (last.event, last.method, last.actor) == ("erased", "clients.erase", "alice")
    await stores.close()
    kept = await asyncio.to_thread(everything_in, tmp_path)
    for secret in (b"bobby-tables", b"bobby%2Dtables", b"bob-7-certificate", b"bobs-print", SCHEME.encode()):
        assert secret not in kept


async def test_lock_outs_are_listed_and_ended(stores: Stores, admin: Administration) -> None:
    await do(admin, "clients.add", client_id="bob")
    assert (await do(admin, "clients.unlock", client_id="bob"))["unlocked"] is False
    assert len(await audit_of(admin)) == 1
    bob = stores.clients.get("bob")
    assert admin.lockouts is not None
    for address in ("192.0.2.1", "192.0.2.2"):
        inbound = Inbound("r", "POST", "/auth/login", address, None, None, (), (), 0.0)
        attempt = admin.lockouts.of_password("bob", inbound, certified=False)
        for _ in range(3):
            admin.lockouts.wrong(attempt, bob)
    await stores.collection(LOCKOUTS).remove("nothing")  # what was handed to the journal is read
    listed = (await do(admin, "lockouts.list", client_id="bob"))["lockouts"]
    assert {(each["scope"], each["origin"]) for each in listed} == {
        ("account_at_address", "192.0.2.1"),
        ("account_at_address", "192.0.2.2"),
        ("account", None),
    }
    assert {(each["client_id"], each["count"]) for each in listed} <= {("bob", 3), ("bob", 4)}
    one = listed[0]["lockout_id"]
    assert (await do(admin, "lockouts.show", lockout_id=one))["lockout"] == listed[0]
    await do(admin, "lockouts.end", lockout_id=one)
    with pytest.raises(UnknownError, match="no such lock-out"):
        await do(admin, "lockouts.end", lockout_id=one)
    assert (await do(admin, "clients.unlock", client_id="bob"))["unlocked"] is True
    assert (await do(admin, "lockouts.list"))["lockouts"] == []
    assert (await do(admin, "clients.unlock", client_id="bob"))["unlocked"] is False
    assert [entry.method for entry in await audit_of(admin)][1:] == ["lockouts.end", "clients.unlock"]


async def test_revoking_an_access_token_ends_it_alone_and_a_refresh_token_its_family(
    admin: Administration,
) -> None:
    await do(admin, "clients.add", client_id="bob")
    family = {"family_id": "f"}
    await admin.stores.tokens.put(
        token("a1", **family),
        token("a2", **family),
        token("r1", kind=TokenKind.REFRESH, **family),
        token("other"),
    )
    answer = await do(admin, "tokens.revoke", token_id="a1")
    assert (answer["revoked"], answer["client_id"], answer["certificate"]) == (1, "bob", "bob")
    assert (await do(admin, "tokens.revoke", token_id="a1"))["revoked"] == 0
    assert (await do(admin, "tokens.revoke", token_id="r1"))["revoked"] == 2
    live = [t.token_id for t in admin.stores.tokens if t.revoked_at is None]
    assert live == ["other"]


async def test_revoking_by_client_says_whether_its_certificate_still_works(admin: Administration) -> None:
    await do(admin, "clients.add", client_id="bob", certificate="bob-7")
    await do(admin, "clients.add", client_id="carl", certificate="none")
    await admin.stores.tokens.put(
        token("t1"), token("t2"), token("old", exp=int(NOW) - 1), token("c", "carl")
    )
    answer = await do(admin, "tokens.revoke", client_id="bob")
    assert (answer["revoked"], answer["certificate"]) == (2, "bob-7")
    assert (await do(admin, "tokens.revoke", client_id="carl"))["certificate"] is None
    await do(admin, "clients.disable", client_id="bob")
    assert (await do(admin, "tokens.revoke", client_id="bob"))["certificate"] is None
    with pytest.raises(OperationError, match="did you mean"):
        await do(admin, "tokens.revoke", client_id="bobb")
    with pytest.raises(OperationError, match="no such token"):
        await do(admin, "tokens.revoke", token_id="t9")
    with pytest.raises(OperationError, match="one token, or one client"):
        await do(admin, "tokens.revoke")
    with pytest.raises(OperationError, match="one token, or one client"):
        await do(admin, "tokens.revoke", token_id="t1", client_id="bob")


async def test_listings_come_in_pages(admin: Administration) -> None:
    for name in ("c", "a", "b"):
        await do(admin, "clients.add", client_id=name)
    await admin.stores.tokens.put(*(token(f"t{number}", "a") for number in range(5)), token("other", "b"))
    first = await do(admin, "clients.list", limit=2)
    assert [client["client_id"] for client in first["clients"]] == ["a", "b"]
    rest = await do(admin, "clients.list", limit=2, cursor=first["next_cursor"])
    assert ([client["client_id"] for client in rest["clients"]], rest["next_cursor"]) == (["c"], None)
    page = await do(admin, "tokens.list", limit=2)
    listed = [t["token_id"] for t in page["tokens"]]
    while page["next_cursor"] is not None:
        page = await do(admin, "tokens.list", limit=2, cursor=page["next_cursor"])
        listed += [t["token_id"] for t in page["tokens"]]
    assert listed == ["t0", "t1", "t2", "t3", "t4", "other"]
    assert len((await do(admin, "tokens.list", client_id="a"))["tokens"]) == 5
    with pytest.raises(OperationError, match="there is no client"):
        await do(admin, "tokens.list", client_id="zoe")
    with pytest.raises(OperationError, match="1 to 1000"):
        await do(admin, "clients.list", limit=0)


async def test_the_audit_is_queried_by_its_filters(admin: Administration) -> None:
    await do(admin, "clients.add", client_id="bob")
    await do(admin, "clients.add", client_id="carl")
    page = await do(admin, "audit.query", client_id="bob", event="admin_change", status="ok")
    assert [entry["target"] for entry in page["entries"]] == ["bob"]
    assert page["next_cursor"] is None
    page = await do(admin, "audit.query", limit=1)
    assert [entry["target"] for entry in page["entries"]] == ["carl"]
    page = await do(admin, "audit.query", limit=1, cursor=page["next_cursor"])
    assert [entry["target"] for entry in page["entries"]] == ["bob"]
    for since, count in (("2027-01-15", 2), ("2027-01-15T09:00:01+01:00", 0), ("2027-01-15T08:00:00Z", 2)):
        assert len((await do(admin, "audit.query", since=since))["entries"]) == count
    assert (await do(admin, "audit.query", until="2027-01-15T08:00:00Z"))["entries"] == []
    for wrong in (
        {"status": "okay"},
        {"since": "yesterday"},
        {"until": "9999-12-31T23:59:59-23:59"},
        {"limit": 1001},
        {"cursor": "x"},
    ):
        with pytest.raises(OperationError):
            await do(admin, "audit.query", **wrong)


async def test_changes_at_once_do_not_undo_each_other(admin: Administration) -> None:
    await do(admin, "clients.add", client_id="bob", permissions=["a:b"])
    await asyncio.gather(
        *(
            do(admin, "clients.roles", client_id="bob", add_permissions=[f"p{number}:x"])
            for number in range(20)
        ),
        do(admin, "clients.disable", client_id="bob"),
        do(admin, "clients.set_password", client_id="bob", password="Correct-horse-1"),
    )
    client = (await do(admin, "clients.show", client_id="bob"))["client"]
    assert len(client["permissions"]) == 21
    assert client["disabled_at"] is not None
    assert client["has_password"]


@pytest.mark.parametrize("operation", ["clients.set_password", "clients.change"])
async def test_a_new_password_ends_what_the_old_one_began_and_the_old_one_is_remembered(
    admin: Administration, operation: str
) -> None:
    await do(admin, "clients.add", client_id="bob", password="Correct-horse-1")
    await do(admin, "clients.add", client_id="carl")
    await admin.stores.tokens.put(
        token("of a session", family_id="f"),
        token("of a session, to refresh", family_id="f", kind=TokenKind.REFRESH),
        token("by Basic"),
        token("of a key", family_id="k", api_key_id="k"),
        token("of carl", "carl"),
    )
    answer = await do(admin, operation, client_id="bob", password="Battery-staple-22")
    assert answer["revoked"] == 3
    live = [each.token_id for each in admin.stores.tokens if each.revoked_at is None]
    assert sorted(live) == ["of a key", "of carl"]
    history = admin.stores.collection(PASSWORD_HISTORIES).get("bob")
    assert history is not None
    assert [each.partition("$")[0] for each in history.hashes] == [SCHEME]


def test_no_repr_shows_a_password() -> None:
    assert "hunter2" not in repr(AddClient(client_id="bob", password="hunter2"))
    assert "hunter2" not in repr(SetPassword(client_id="bob", password="hunter2"))


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=9)
    | st.lists(st.text(max_size=5), max_size=2)
)


@given(
    operation=st.sampled_from(sorted(OPERATIONS)),
    parameters=st.dictionaries(
        st.sampled_from(
            ["client_id", "roles", "add_roles", "password", "limit", "cursor", "since", "token_id"]
        ),
        values,
    ),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_parameters_are_performed_or_refused(
    admin: Administration, operation: str, parameters: dict[str, object]
) -> None:
    try:
        answer = await perform(admin, operation, parameters, "alice")
    except OperationError as error:
        answer = {"error": str(error)}
    msgspec.json.encode(answer)


@pytest.mark.parametrize("name", ["erased", "erased-7", "Erased"])
async def test_what_stands_for_erased_clients_is_nobodys_name(admin: Administration, name: str) -> None:
    with pytest.raises(ParameterError, match="stands for erased clients; choose another name"):
        await do(admin, "clients.add", client_id=name)
    assert admin.stores.clients.get(name) is None


async def test_an_export_holds_no_other_tenants_tokens(admin: Administration) -> None:
    """Not even of a client of before that has the name of the erased."""
    await do(admin, "tenants.add", tenant_id="acme")
    await do(admin, "clients.add", client_id="bob", tenant_id="acme")
    bob = admin.stores.clients.get("bob")
    assert bob is not None
    await admin.stores.clients.put(msgspec.structs.replace(bob, client_id="erased", certificate="other"))
    await admin.stores.tokens.put(token("theirs", "erased"), token("ours", "erased", tenant_id="acme"))
    held = await do(admin, "clients.export", client_id="erased")
    assert [each["token_id"] for each in held["tokens"]] == ["ours"]


@pytest.mark.parametrize("cursor", [-1, 2**53 + 1, 10**30])
async def test_a_cursor_beyond_all_bounds_is_refused(admin: Administration, cursor: int) -> None:
    with pytest.raises(ParameterError, match=r"leave it out to begin anew|wrong parameters"):
        await perform(admin, "tokens.list", {"cursor": cursor}, "alice")
    with pytest.raises(ParameterError):
        await perform(admin, "tokens.list", {"cursor": cursor, "client_id": "nobody"}, "alice")


async def test_the_audit_says_what_was_changed(admin: Administration) -> None:
    await do(admin, "tenants.add", tenant_id="acme", mfa_required=True)
    await do(admin, "tenants.set", tenant_id="acme", name="Acme", mfa_required=False, disabled=True)
    await do(admin, "tenants.set", tenant_id="acme", disabled=False)
    await do(admin, "clients.add", client_id="bob", roles=["analyst"], permissions=["a:b"])
    await do(admin, "clients.change", client_id="bob", roles=["admin"], disabled=True)
    await do(admin, "clients.roles", client_id="bob", roles=[], permissions=[])
    assert [(entry.method, entry.target) for entry in await audit_of(admin)] == [
        ("tenants.add", "acme: mfa_required=true"),
        ("tenants.set", "acme: name=Acme"),
        ("tenants.set", "acme: mfa_required=false"),
        ("tenants.disable", "acme"),
        ("tenants.enable", "acme"),
        ("clients.add", "bob: analyst a:b"),
        ("clients.roles", "bob: admin a:b"),
        ("clients.disable", "bob"),
        ("clients.roles", "bob: none"),
    ]


async def test_an_export_has_the_clients_entries_alone_and_waits_for_no_change(admin: Administration) -> None:
    for name in ("bob", "bobby"):
        await do(admin, "clients.add", client_id=name, roles=["analyst"])
    entry = AuditEntry(timestamp=rfc3339(NOW), event="admin_change", status=AuditStatus.OK, client_id="root")
    for target in ("bob", "bob: analyst", "bobby", "bobby: analyst", "no bob: x"):
        await admin.stores.audit.append(msgspec.structs.replace(entry, target=target))
    async with admin.turn:
        held = await asyncio.wait_for(do(admin, "clients.export", client_id="bob"), 30)
    assert [(each["client_id"], each["target"]) for each in held["audit"]] == [
        ("bob", "bob"),
        ("root", "bob: analyst"),
        ("root", "bob"),
        ("bob", "bob: analyst"),
    ]
    assert held["next_cursor"] is None


async def test_certificates_that_named_the_erased_by_its_name_name_nobody_else(admin: Administration) -> None:
    for name in ("bob", "carl"):
        await do(admin, "clients.add", client_id=name)
        await do(admin, "clients.change", client_id=name, certificate=f"{name}.laptop")
    await do(admin, "clients.add", client_id="dora", certificate="carl")
    for name in ("bob", "carl"):
        await do(admin, "clients.erase", client_id=name)
    for certificate in ("bob", "bob.laptop", "carl.laptop"):
        with pytest.raises(OperationError, match="somebody else's"):
            await do(admin, "clients.add", client_id="eve", certificate=certificate)
    assert (await do(admin, "clients.show", client_id="dora"))["client"]["certificate"] == "carl"
    assert admin.tombstones.of_certificate("carl") is None, "it is another client's now"


async def test_no_change_waits_for_the_audit_to_be_looked_through(admin: Administration) -> None:
    for name in ("bob", "carl"):
        await do(admin, "clients.add", client_id=name)
    entry = AuditEntry(timestamp=rfc3339(NOW), event="tool_call", status=AuditStatus.OK, client_id="bob")
    await asyncio.gather(*(admin.stores.audit.append(entry) for _ in range(20_000)))
    done = []

    async def change(operation: str, name: str) -> None:
        await do(admin, operation, client_id=name)
        done.append(operation)

    await asyncio.gather(change("clients.erase", "bob"), change("clients.disable", "carl"))
    assert done == ["clients.disable", "clients.erase"]


async def test_a_tenant_with_open_invitations_is_not_removed(admin: Administration) -> None:
    await do(admin, "tenants.add", tenant_id="acme")
    made = await do(admin, "invitations.add", tenant_id="acme")
    with pytest.raises(OperationError, match="the tenant acme still has 1 open invitation;"):
        await do(admin, "tenants.remove", tenant_id="acme")
    await do(admin, "invitations.revoke", invitation_id=made["invitation"]["invitation_id"])
    assert await do(admin, "tenants.remove", tenant_id="acme") == {"tenant_id": "acme"}


async def test_a_role_that_is_of_another_place_is_told_with_that(admin: Administration) -> None:
    await do(admin, "tenants.add", tenant_id="acme")
    await do(admin, "roles.add", role="auditor", tenant_id="acme", permissions=["audit:read"])
    with pytest.raises(
        OperationError, match=r"no role 'auditor' of every tenant; there is one of the tenant acme$"
    ):
        await do(admin, "roles.remove", role="auditor")
    await do(admin, "clients.add", client_id="bob", tenant_id="acme", roles=["auditor"])
    with pytest.raises(OperationError, match=r"^1 client with the role auditor \(bob\)"):
        await do(admin, "roles.remove", role="auditor", tenant_id="acme")
    with pytest.raises(OperationError, match="the tenant acme still has 1 client and 1 role;"):
        await do(admin, "tenants.remove", tenant_id="acme")


async def test_keys_and_invitations_of_another_tenant_are_not_there(admin: Administration) -> None:
    for tenant in ("red", "blue"):
        await do(admin, "tenants.add", tenant_id=tenant)
        await do(admin, "clients.add", client_id=f"{tenant}-bob", tenant_id=tenant, roles=["analyst"])
    theirs = (await do(admin, "api_keys.add", client_id="blue-bob", name="ci"))["key"]["key_id"]
    invitation = (await do(admin, "invitations.add", tenant_id="blue"))["invitation"]["invitation_id"]
    boss = ClientContext("red-boss", "red", permissions=Permissions(frozenset({"*:*"})))
    inbound = Inbound("r", "GET", "/", "127.0.0.1", None, None, (), (), 0.0)
    red = replace(admin, caller=Caller(boss, inbound, "red"))
    own = (await do(red, "api_keys.add", client_id="red-bob", name="ci"))["key"]["key_id"]
    listed = (await do(red, "api_keys.list"))["api_keys"]
    assert [each["key_id"] for each in listed] == [own]
    assert await do(red, "invitations.list") == {"invitations": [], "next_cursor": None}
    for operation, parameters in (
        ("api_keys.add", {"client_id": "blue-bob", "name": "mine"}),
        ("api_keys.list", {"client_id": "blue-bob"}),
        ("api_keys.show", {"key_id": theirs}),
        ("api_keys.rotate", {"key_id": theirs}),
        ("api_keys.revoke", {"key_id": theirs}),
        ("invitations.add", {"tenant_id": "blue"}),
        ("invitations.show", {"invitation_id": invitation}),
        ("invitations.revoke", {"invitation_id": invitation}),
    ):
        with pytest.raises(UnknownError):
            await do(red, operation, **parameters)
    reader = replace(boss, permissions=Permissions(frozenset({"clients:write"})))
    lesser = replace(admin, caller=Caller(reader, inbound, "red"))
    with pytest.raises(ForbiddenError):
        await do(lesser, "api_keys.add", client_id="red-bob", name="more than I may")
    assert (await do(admin, "api_keys.list", client_id="blue-bob"))["api_keys"][0]["key_id"] == theirs


async def test_what_others_did_to_an_erased_client_names_it_no_more(
    stores: Stores, admin: Administration, tmp_path: Path
) -> None:
    await do(admin, "clients.add", client_id="bobby-tables", certificate="none", roles=["analyst"])
    entry = AuditEntry(timestamp=rfc3339(NOW), event="admin_change", status=AuditStatus.OK, client_id="root")
    await admin.stores.audit.append(msgspec.structs.replace(entry, target="bobby-tables: analyst"))
    await do(admin, "clients.erase", client_id="bobby-tables")
    await stores.close()
    assert b"bobby-tables" not in await asyncio.to_thread(everything_in, tmp_path)
