"""Permissions, rules and the table of answers."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz import authorize, permissions_for
from gateway.config.reader import read_config
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


TLS = """
[tls]
certificate = "server.pem"
private_key = "server.key"
client_ca = "ca.pem"
[tokens]
secret_env = "SECRET"
"""


def _resource_rules(folder: Path, *rules: tuple[str, str]) -> Sequence[AccessRule]:
    """The rules as they are read; of an empty permission: public."""
    text = TLS
    for match, needed in rules:
        access = f"permissions = ['{needed}']" if needed else "access = 'public'"
        text += f"[[resources]]\nmatch = {json.dumps(match)}\n{access}\n"
    file = folder / "ostiary.toml"
    file.write_text(text)
    return read_config(file, {"SECRET": "kJ8vQ2mX5rT9wZ3bN6cL1dF4gH7sP0yA-uE_iOqW"}).resources


@pytest.mark.parametrize(
    "match",
    ["x://h/caf%C3%A9*", "x://h/caf%c3%a9*", "x://h/caf\u00e9*", "X://H/caf%C3%A9*"],
)
@pytest.mark.parametrize(
    "uri", ["x://h/caf%C3%A9/1", "x://h/caf%c3%A9/1", "x://h/caf%c3%a9/1", "X://h/caf%C3%A9/1"]
)
def test_no_spelling_of_a_uri_escapes_its_rule(tmp_path: Path, match: str, uri: str) -> None:
    rules = _resource_rules(tmp_path, (match, "a:use"), ("*", ""))
    assert permissions_for(rules, uri) == ("a:use",)


@pytest.mark.parametrize("char", " !\"#$%&'()*+,:;<=>?@[]^`{|}")
@pytest.mark.parametrize("form", ["%{:02X}", "%{:02x}"])
def test_an_escape_and_what_it_stands_for_are_one_to_a_rule(tmp_path: Path, char: str, form: str) -> None:
    escaped = form.format(ord(char))
    plain = f"[{char}]" if char in "*?[" else char
    for match, uri in ((f"x://a{escaped}b*", f"x://a{char}b"), (f"x://a{plain}b*", f"x://a{escaped}b")):
        rules = _resource_rules(tmp_path, (match, "a:use"), ("x://*", ""))
        assert permissions_for(rules, uri) == ("a:use",)
        assert permissions_for(rules, "x://other") == ()


@pytest.mark.parametrize(
    ("match", "uris"),
    [
        (
            "https://h.example/*",
            ["https://h.example", "https://h.example?x", "https://H.example/", "HTTPS://h.example/x"],
        ),
        ("https://h.example", ["https://h.example", "https://h.example/"]),
        ("https://h*", ["https://h.example", "https://h.example/x"]),
        ("file:///hr/*", ["file:/hr/x", "file://localhost/hr/x", "FILE://LocalHost/hr/x"]),
        ("file:/hr/*", ["file:///hr/x"]),
        ("file:///*", ["file://localhost", "file:", "file://", "file:/x"]),
        ("http://[[]::1]/*", ["http://[::1]", "http://[::1]/x"]),
        ("item://Hr/*", ["item://hr/x", "item://Hr/x"]),
    ],
)
def test_nor_does_another_way_to_write_its_beginning(tmp_path: Path, match: str, uris: list[str]) -> None:
    rules = _resource_rules(tmp_path, (match, "a:use"), ("*", ""))
    assert [permissions_for(rules, uri) for uri in uris] == [("a:use",)] * len(uris)


def test_where_two_readings_of_a_uri_fall_under_two_rules_both_are_needed(tmp_path: Path) -> None:
    rules = _resource_rules(tmp_path, ("x://a%21*", "a:use"), ("x://a!*", "b:use"))
    assert permissions_for(rules, "x://a%21") == ("a:use",)
    assert permissions_for(rules, "x://a!") == ("b:use", "a:use")
    public = _resource_rules(tmp_path, ("x://a%3Fb", ""), ("x://*", "a:use"))
    assert permissions_for(public, "x://a%3Fb") == ()
    assert permissions_for(public, "x://a?b") == ("a:use",), "an escape opens nothing that it does not spell"
    assert permissions_for(_resource_rules(tmp_path, ("x://a?21", ())), "x://a%21") == ADMINISTRATION


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
    error = json.loads(json_rpc_error(Deny(reason, "Do this."), "r1", 1))["error"]
    assert error["code"] in {-32600, -32601, -32602, -32603}, (
        "MCP 2026-07-28 leaves no room for codes of one's own"
    )
    assert error["data"]["reason"] == reason


def test_a_challenge_cannot_be_broken_by_what_it_says() -> None:
    deny = Deny(Reason.TOKEN_MALFORMED, 'a "quote", a \\ and a\nline', permissions=("files:read",))
    challenge = Problems("https://gate.example").response(deny, "r1").headers["WWW-Authenticate"]
    assert challenge == (
        'Bearer realm="ostiary", error="invalid_token", '
        "error_description=\"a 'quote', a ' and a'line\", "
        'scope="files:read", '
        'resource_metadata="https://gate.example/.well-known/oauth-protected-resource/mcp"'
    )
