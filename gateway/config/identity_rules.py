"""``[[tls.client_id]]``: the rules that name the client of a certificate."""

from __future__ import annotations

import re
from collections.abc import Mapping

from certs.identity import DEFAULT_RULES, CertificateField, IdentityRule
from gateway.config.shapes import NAME, ROLE, Table
from gateway.model import is_of_platform


def read_identity_rules(tls: Table, roles: Mapping[str, tuple[str, ...]]) -> tuple[IdentityRule, ...]:
    """The rules in their order; ``roles``: those of the configuration."""
    rules = []
    for table in tls.tables("client_id", "tls.client_id"):
        if not table.has("from"):
            table.reject("from", f"is missing; write one of: {', '.join(CertificateField)}")
        source = table.choice("from", CertificateField.COMMON_NAME)
        match = table.regex("match")
        tenant = table.matching("tenant", "", NAME, "write the tenant's name")
        rules.append(
            IdentityRule(
                source,
                None if match is None else re.compile(match),
                ca=table.path("ca"),
                tenant_id=tenant or None,
                roles=_roles_of_rule(table, roles),
            )
        )
        table.close()
    return tuple(rules) or DEFAULT_RULES


def _roles_of_rule(table: Table, roles: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What a rule gives. Whether roles that are not under ``[roles]`` are there, the store knows."""
    given = table.texts("roles")
    if not all(ROLE.fullmatch(role) for role in given):
        table.reject("roles", 'holds what is not a role name; write ["analyst"]')
        return ()
    of_platform = [role for role in given if any(map(is_of_platform, roles.get(role, ())))]
    if of_platform:
        remedy = "give them to one client: ostiary clients roles NAME --add-role ROLE"
        table.reject("roles", f"{', '.join(of_platform)}: no rule gives what crosses tenants; {remedy}")
    return tuple(dict.fromkeys(given))
