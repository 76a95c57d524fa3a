"""Permissions, rules and the table of answers."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz import authorize, permissions_for
from gateway.config.values import AccessRule
from gateway.model import ADMINISTRATION, ALLOW, ANONYMOUS, ClientContext, Deny, Permissions, Reason
from gateway.problems import Problems, json_rpc_error

SEGMENT = st.sampled_from(["files", "reports", "read", "write", "platform", "admin"])
PERMISSION = st.builds("{}:{}".format, SEGMENT, SEGMENT)
GRANT = st.builds("{}:{}".format, SEGMENT | st.just("*"), SEGMENT | st.just("*"))


def _matches(grant: str, permission: str) -> bool:
    """The rule as the documents say it, segment by segment."""
    (resource, action), (wanted, deed) = grant.split(":"), permission.split(":")
    if wanted == "platform" and resource != "platform":
        return False
    return resource in {"*", wanted} and action in {"*", deed}


@given(st.frozensets(GRANT, max_size=5), st.lists(PERMISSION, max_size=4))
def test_all_that_is_needed_must_be_granted(grants: frozenset[str], needed: list[str]) -> None:
    expected = all(any(_matches(grant, permission) for grant in grants) for permission in needed)
    assert Permissions(grants).cover(needed) is expected


def test_everything_in_ones_tenant_is_not_the_platform() -> None:
    assert Permissions(frozenset({"*:*"})).cover(["clients:write", "audit:read"])
    assert not Permissions(frozenset({"*:*"})).cover(["platform:tenants"])
    assert Permissions(frozenset({"platform:*"})).cover(["platform:tenants"])
    assert not Permissions(frozenset({"platform:*"})).cover(["clients:read"])


def _rule(match: str, *permissions: str) -> AccessRule:
    return AccessRule(match, re.compile(fnmatch.translate(match)), permissions)


def test_the_first_rule_that_matches_says_what_is_needed() -> None:
    rules = [_rule("files_list*"), _rule("files_*", "files:read")]
    assert permissions_for(rules, "files_list_all") == ()
    assert permissions_for(rules, "files_read") == ("files:read",)
    assert permissions_for(rules, "Files_read") == ADMINISTRATION
    assert permissions_for([], "anything") == ADMINISTRATION


@given(st.frozensets(GRANT, max_size=4), st.lists(PERMISSION, max_size=3))
def test_a_decision_follows_the_permissions_alone(grants: frozenset[str], needed: list[str]) -> None:
    known = ClientContext(client_id="a", permissions=Permissions(grants))
    decision = authorize(known, needed)
    assert (decision is ALLOW) is known.permissions.cover(needed)
    if isinstance(decision, Deny):
        assert decision.reason is Reason.PERMISSION_DENIED
    anonymous = authorize(ANONYMOUS, needed)
    assert (anonymous is ALLOW) is (not needed)


STATUSES = {
    401: """
        authentication_required invalid_credentials token_malformed token_expired token_not_yet_valid token_signature
        token_issuer token_audience token_type token_revoked token_unknown certificate_mismatch certificate_required
        certificate_expired certificate_revoked certificate_unmapped client_disabled client_unknown
        unsupported_credentials certificate_untrusted crl_expired mfa_required mfa_code_invalid mfa_session_invalid api_key_unknown api_key_expired
    """,
    403: "registration_closed permission_denied host_not_allowed origin_not_allowed tenant_mismatch",
    404: "not_found session_unknown api_key_not_found",
    405: "method_not_allowed",
    400: """
        bad_request ambiguous_credentials ambiguous_request protocol_version invalid_grant invalid_scope invalid_target
        unsupported_grant_type unsupported_token_type password_rejected email_code_invalid
    """,
    409: "conflict",
    413: "body_too_large",
    415: "content_encoding content_type",
    406: "not_acceptable",
    429: "rate_limited",
    408: "request_timeout",
    502: "upstream_unavailable upstream_invalid",
    504: "upstream_timeout",
    503: "store_unavailable",
    501: "not_implemented",
    500: "internal_error interrupted",
}
"""RFC 9110 section 15, RFC 6750 section 3.1, RFC 6749 section 5.2, RFC 6585 section 4."""


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_answer(reason: Reason) -> None:
    response = Problems("https://gate.example").response(Deny(reason, "Do this."), "r1")
    assert [status for status, reasons in STATUSES.items() if reason in reasons.split()] == [response.status]
    assert response.content_type == "application/problem+json"
    challenged = "WWW-Authenticate" in response.headers
    assert challenged or response.status != 401
    assert b'"code":' in json_rpc_error(Deny(reason, "Do this."), "r1", 1)


def test_a_challenge_cannot_be_broken_by_what_it_says() -> None:
    deny = Deny(Reason.TOKEN_MALFORMED, 'a "quote", a \\ and a\nline', permissions=("files:read",))
    challenge = Problems("https://gate.example").response(deny, "r1").headers["WWW-Authenticate"]
    assert challenge == (
        'Bearer realm="ostiary", error="invalid_token", '
        "error_description=\"a 'quote', a ' and a'line\", "
        'scope="files:read", '
        'resource_metadata="https://gate.example/.well-known/oauth-protected-resource/mcp"'
    )
