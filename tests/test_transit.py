"""How much may be on its way to one client, to the anonymous, and to all."""

from __future__ import annotations

import pytest

from gateway.mcp import transit
from gateway.mcp.sessions import Owner, counted_as
from gateway.mcp.transit import SMALL, Transit
from gateway.mcp.upstream import UpstreamError
from gateway.model import ANONYMOUS, ClientContext, Reason, Refused

ALICE, BOB = (counted_as(ClientContext(client_id=name, tenant_id="t"), "192.0.2.1") for name in ("a", "b"))
HERE, THERE = (counted_as(ANONYMOUS, address) for address in ("192.0.2.1", "192.0.2.2"))
LARGE = 10 * SMALL


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transit, "MAX_BYTES_OF_ONE", 2 * LARGE)
    monkeypatch.setattr(transit, "MAX_BYTES_ANONYMOUS", 3 * LARGE)
    monkeypatch.setattr(transit, "MAX_BYTES", 4 * LARGE)


def _full(kept: Transit, owner: Owner) -> bool:
    try:
        kept.parcel(owner).grow_to(LARGE)
    except UpstreamError as error:
        return error.reason is Reason.RATE_LIMITED
    return False


def test_a_client_has_only_so_much() -> None:
    kept = Transit()
    first, second = kept.parcel(ALICE), kept.parcel(ALICE)
    first.grow_to(LARGE)
    first.grow_to(LARGE // 2)  # it has been larger
    second.grow_to(LARGE)
    assert kept.size == 2 * LARGE
    with pytest.raises(UpstreamError, match="its answer is lost"):
        second.grow_to(LARGE + 1)
    with pytest.raises(Refused):  # before anything is done for it
        kept.parcel(ALICE)
    assert not _full(kept, BOB)
    for parcel in (first, second, second):
        parcel.delivered()
    second.grow_to(LARGE)  # what a held call brings later is another's
    assert kept.size == LARGE


def test_the_anonymous_leave_something_to_those_who_are_known() -> None:
    kept = Transit()
    assert [_full(kept, owner) for owner in (HERE, HERE, THERE, THERE)] == [False, False, False, True]
    assert [_full(kept, owner) for owner in (ALICE, BOB)] == [False, True]


def test_what_is_small_is_not_counted() -> None:
    kept = Transit()
    for _ in range(100):
        kept.parcel(ALICE).grow_to(SMALL)
    assert kept.size == 0
