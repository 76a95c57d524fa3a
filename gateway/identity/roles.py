"""From roles to permissions, and from permissions to scope (RFC 6749 section 3.3) and back. Pure.

A scope is permissions with spaces between. An empty one narrows nothing: it is all that the client may do, now and
whenever the token is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from certs.identity import IdentityRule
from gateway.config.shapes import PERMISSION
from gateway.model import PLATFORM, Deny, Permissions, Reason, is_of_platform
from persistence.protocols import Collection
from persistence.records import ClientRecord, RoleRecord

ANY: Final = "*"
MAX_SCOPE: Final = 4096
"""Characters of a scope that is asked for."""


def role_id(tenant_id: str | None, role: str) -> str:
    """The key of a role that was made while running."""
    return f"{tenant_id or ANY}/{role}"


class Roles:
    """What each role grants. One of the configuration comes first, then one of every tenant, then the tenant's own.

    A role that is nowhere grants nothing.
    """

    def __init__(
        self, configured: Mapping[str, tuple[str, ...]], made: Collection[RoleRecord] | None = None
    ) -> None:
        """``made``: those that were made while running."""
        self.configured = configured
        self.made = made

    def find(self, tenant_id: str, role: str) -> RoleRecord | None:
        """The role that was made while running, as a client of that tenant has it."""
        if self.made is None:
            return None
        return self.made.get(role_id(None, role)) or self.made.get(role_id(tenant_id, role))

    def grants(self, tenant_id: str, role: str) -> tuple[str, ...] | None:
        """What the role grants to a client of that tenant; None: there is none of that name."""
        configured = self.configured.get(role)
        if configured is not None:
            return configured
        made = self.find(tenant_id, role)
        return None if made is None else made.permissions

    def names(self, tenant_id: str) -> list[str]:
        """The roles that a client of that tenant may have."""
        made = () if self.made is None else self.made
        return [*self.configured, *(each.role for each in made if each.tenant_id in {None, tenant_id})]

    def problems(self, rules: Iterable[IdentityRule]) -> list[str]:
        """The roles of identity rules that are nowhere, each with its remedy."""
        return [
            f"[[tls.client_id]] #{number} roles: there is no role {role}; "
            f"put it under [roles] and start anew, or make it: ostiary roles add {role}"
            for number, rule in enumerate(rules, 1)
            for role in rule.roles
            if not self._is_there(role, rule.tenant_id)
        ]

    def _is_there(self, role: str, tenant_id: str | None) -> bool:
        """Whether a client of the tenant may have the role; None: a client of some tenant."""
        if role in self.configured:
            return True
        made = (each.tenant_id for each in self.made or () if each.role == role)
        return any(tenant_id is None or tenant in {None, tenant_id} for tenant in made)

    def permissions(
        self, client: ClientRecord, scope: str = "", by_certificate: Sequence[str] = ()
    ) -> Permissions:
        """All that the client may do, narrowed to ``scope`` if there is one.

        ``by_certificate``: the roles that the rule of its certificate gives. Nothing of the platform comes by them.
        """
        grants = set(client.permissions)
        for role in client.roles:
            grants.update(self.grants(client.tenant_id, role) or ())
        for role in by_certificate:
            given = self.grants(client.tenant_id, role) or ()
            grants.update(grant for grant in given if not is_of_platform(grant))
        if not scope:
            return Permissions(frozenset(grants))
        wanted = scope.split(" ")
        met = (_meet(grant, permission) for grant in grants for permission in wanted)
        return Permissions(frozenset(permission for permission in met if permission is not None))


def all_roles(client: ClientRecord, by_certificate: Sequence[str] = ()) -> tuple[str, ...]:
    """The client's own roles, then those that the rule of its certificate gives."""
    return tuple(dict.fromkeys((*client.roles, *by_certificate)))


def scope_of(permissions: Permissions) -> str:
    """The permissions as a scope, in the order of the alphabet."""
    return " ".join(sorted(permissions.grants))


def requested_scope(text: str | None, permissions: Permissions) -> str | Deny:
    """``text`` as a scope without repetitions, if ``permissions`` cover all of it; "" where none is asked for."""
    if not text:
        return ""
    wanted = dict.fromkeys(text.split(" "))
    if len(text) > MAX_SCOPE or not all(PERMISSION.fullmatch(permission) for permission in wanted):
        return Deny(
            Reason.INVALID_SCOPE, 'A scope is permissions such as "files:read", with one space between.'
        )
    if not permissions.cover(wanted):
        return Deny(Reason.INVALID_SCOPE, "The scope has permissions that this client does not have.")
    return " ".join(wanted)


def _meet(one: str, other: str) -> str | None:
    """The permission that both cover; None: there is none. ``*`` does not stand for ``platform``."""
    resource, _, action = one.partition(":")
    other_resource, _, other_action = other.partition(":")
    if resource != other_resource and PLATFORM in {resource, other_resource}:
        return None
    met_resource = _meet_segment(resource, other_resource)
    met_action = _meet_segment(action, other_action)
    return None if met_resource is None or met_action is None else f"{met_resource}:{met_action}"


def _meet_segment(one: str, other: str) -> str | None:
    if one in {other, ANY}:
        return other
    return one if other == ANY else None
