"""What a caller may do. Pure, and closed by default: what no rule names needs administration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.config.values import AccessRule
from gateway.model import ADMINISTRATION, ALLOW, ClientContext, Decision, Deny, Reason
from gateway.spelling import as_read

PUBLIC: tuple[str, ...] = ()
"""What a public thing needs."""


def rule_for(rules: Sequence[AccessRule], name: str) -> AccessRule | None:
    """The first rule that matches ``name``.

    Where the rules are for URIs, and another spelling that may mean the same falls under another rule, what both say
    is needed: whoever serves the URI may take the one for the other.
    """
    written = next((rule for rule in rules if rule.pattern.fullmatch(name)), None)
    if written is None or written.as_read is None:
        return written
    meant = as_read(name)
    read = next((rule for rule in rules if rule.as_read is not None and rule.as_read.fullmatch(meant)), None)
    if read is None or read is written:
        return read
    return replace(read, permissions=tuple(dict.fromkeys((*written.permissions, *read.permissions))))


def permissions_for(rules: Sequence[AccessRule], name: str) -> tuple[str, ...]:
    """What ``name`` needs: the first rule that matches says; where none does, administration."""
    rule = rule_for(rules, name)
    return ADMINISTRATION if rule is None else rule.permissions


def authorize(context: ClientContext, needed: Sequence[str]) -> Decision:
    """Whether the caller has every needed permission."""
    if context.permissions.cover(needed):
        return ALLOW
    if context.anonymous:
        return Deny(
            Reason.AUTHENTICATION_REQUIRED,
            "Present a client certificate, or a token from /auth/token as a bearer token.",
            permissions=tuple(needed),
        )
    return Deny(
        Reason.PERMISSION_DENIED,
        "This needs a permission that you do not have: ask an administrator of the gateway.",
        permissions=tuple(needed),
        caller=context,
    )


def agree_on_tenant(context: ClientContext, named: str, *, chooses: bool = False) -> Deny | None:
    """Why ``X-Tenant-ID`` does not fit the caller; None: it does.

    ``chooses``: where one acts on tenants, those who hold something of the platform may name any.
    """
    if context.anonymous:
        return Deny(
            Reason.AUTHENTICATION_REQUIRED,
            "X-Tenant-ID is for callers who say who they are: leave it out, or authenticate.",
        )
    if named == context.tenant_id or (chooses and context.permissions.of_platform):
        return None
    return Deny(
        Reason.TENANT_MISMATCH,
        "X-Tenant-ID names another tenant than yours: leave it out.",
        caller=context,
    )
