"""Reads what the edge goes by: ``[limits]``, ``[cors]``, and networks."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from gateway.config.shapes import Table, url_problem
from gateway.config.values import CorsSettings, LimitSettings

_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


def read_limits(root: Table) -> LimitSettings:
    """``[limits]``"""
    table = root.table("limits", override="OSTIARY_LIMITS_")
    default = LimitSettings()
    settings = LimitSettings(
        requests_per_minute=table.integer(
            "requests_per_minute", default.requests_per_minute, 0, 1_000_000_000
        ),
        burst=table.integer("burst", default.burst, 1, 1_000_000_000),
        login_per_minute=table.integer("login_per_minute", default.login_per_minute, 1, 1_000_000),
        connections=table.integer("connections", default.connections, 1, 1_000_000),
        connections_per_address=table.integer(
            "connections_per_address", default.connections_per_address, 1, 1_000_000
        ),
        handshake_timeout=table.seconds("handshake_timeout", default.handshake_timeout, "1s", "5m"),
        header_timeout=table.seconds("header_timeout", default.header_timeout, "1s", "5m"),
        body_timeout=table.seconds("body_timeout", default.body_timeout, "1s", "1h"),
        send_timeout=table.seconds("send_timeout", default.send_timeout, "1s", "1h"),
        idle_timeout=table.seconds("idle_timeout", default.idle_timeout, "1s", "1h"),
    )
    table.close()
    return settings


def read_cors(root: Table) -> CorsSettings:
    """``[cors]``"""
    table = root.table("cors", override="OSTIARY_CORS_")
    default = CorsSettings()
    origins = table.texts("origins")
    for origin in origins:
        problem = url_problem(origin, origin=True)
        if origin == "*":
            table.reject("origins", '"*" would let every page read what its visitor may; name the origins')
        elif problem is not None or origin.endswith("/") or origin != origin.lower():
            what = (
                problem or "is not as browsers send it; write it in small letters, without a slash at its end"
            )
            table.reject("origins", f"one of them {what}")
    headers = table.texts("headers")
    if not all(_FIELD_NAME.fullmatch(name) for name in headers):
        table.reject("headers", 'must hold names of header fields; write ["X-Mine", …]')
    settings = CorsSettings(
        origins=origins, headers=headers, max_age=table.seconds("max_age", default.max_age, "0s", "1d")
    )
    table.close()
    return settings


def read_networks(table: Table, key: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks (RFC 4632): what stands for everybody is none."""
    networks = []
    for text in table.texts(key):
        try:
            network = ip_network(text)
        except ValueError:
            table.reject(key, 'must hold addresses and networks; write "10.0.0.5" or "10.1.0.0/16"')
            continue
        if network.prefixlen == 0:
            table.reject(key, f"{text} is everybody; name the addresses")
        networks.append(network)
    return tuple(networks)
