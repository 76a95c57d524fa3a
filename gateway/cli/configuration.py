"""The ``ostiary.toml`` that ``ostiary init`` writes."""

from __future__ import annotations

from typing import Final

CONFIGURATION: Final = """\
# Ostiary's configuration. After a change: `ostiary check`.
# Relative paths are relative to this file. Durations: "90s", "15m", "1h", "7d". Secrets never stand in here: they come
# from files or environment variables. OSTIARY_<SECTION>_<KEY> overrides a single value, such as OSTIARY_SERVER_PORT.
# What is commented out shows the default, or an example where it says so.

[server]
host = "127.0.0.1"                          # "0.0.0.0": every interface
port = 8443                                 # 0: a free one
public_url = "https://localhost:8443"       # what clients call this gateway
# drain = "30s"                             # how long requests under way may take after SIGTERM
# trusted_hosts = []                        # other names that Host and Origin may carry, without scheme and port

[tls]
certificate = "certs/server.pem"
private_key = "certs/server.key"
client_ca = "certs/ca.pem"                  # whose client certificates are accepted
# client_certificates = "optional"          # "none" | "optional" | "required"
# crl = "certs/crl.pem"                     # may be absent
# minimum_version = "1.3"                   # "1.2" is allowed

# Which part of a certificate names the client: the first rule that matches. No rules: the common name.
# Example:
# [[tls.client_id]]
# from = "san_uri"                          # san_uri | san_dns | san_email | common_name | subject
# match = "spiffe://example\\\\.org/(?P<client_id>[a-z0-9-]+)"
# [[tls.client_id]]
# from = "common_name"

[tokens]
secret_file = "secret.key"                  # or secret_env = "OSTIARY_SECRET_KEY"
# algorithm = "HS256"                       # "RS256" | "PS256" | "ES256" | "EdDSA": then private_key_file, no secret
# retired_keys_file = "retired-keys.json"   # where `ostiary keys rotate` keeps keys that still verify
# issuer = "https://localhost:8443"         # public_url
# audience = "https://localhost:8443/mcp"   # public_url and /mcp
# access_ttl = "1h"
# refresh_ttl = "7d"
# leeway = "0s"

[storage]
path = "persistence"

# [audit]                                   # what happens when it cannot be written
# on_failure = "refuse"                     # what cannot be audited is not done | "log": it is done all the same

# Roles grant permissions, `resource:action`; `*` stands for one whole segment. There is always admin = ["*:*"].
# [roles]                                   # which permissions a role grants
# analyst = ["files:read", "reports:*"]     # an example

# MCP servers behind the gateway. Examples:
# [[upstreams]]
# name = "files"
# transport = "http"                        # streamable HTTP
# url = "http://127.0.0.1:9001/mcp"
# prefix = "files_"                         # put before the names of its tools
# timeout = "30s"
# max_concurrency = 64
#
# [[upstreams]]
# name = "notes"
# transport = "stdio"                       # a child process, started in this folder
# command = ["python3", "server.py"]
# prefix = "notes_"
# env = { TZ = "UTC" }
# env_from = ["NOTES_API_KEY"]              # handed on from the gateway's environment
# sandbox = { memory = "512M", open_files = 64, processes = 16 }

# Who may see and call a tool: the first rule that matches. A tool that no rule matches is for administrators alone.
# Prompts and resources have rules of the same kind: [[prompts]], [[resources]]. Examples:
# [[tools]]
# match = "files_list*"                     # a shell pattern on the prefixed name
# access = "public"
#
# [[tools]]
# match = "files_*"
# permissions = ["files:read"]              # all of them are needed

# Plain HTTP services behind the gateway. Example:
# [[services]]
# name = "persons"
# prefix = "/api/v1/"
# url = "http://127.0.0.1:9002"             # the path goes on unchanged
# permissions = { read = ["persons:read"], write = ["persons:write"] }

# [mcp]                                     # what callers of /mcp see
# anonymous = "public"                      # without credentials: public tools | "challenge": 401
# denied = "hide"                           # a denied tool: as if it did not exist | "challenge": 403 with its scopes

# [accounts]                                # people and their passwords
# lockout_after = 10                        # wrong passwords, until an account has to wait

# [limits]                                  # what is too much
# requests_per_minute = 60000               # for each client; 0: no limit
# burst = 2000
# login_per_minute = 10                     # for each address and each account
"""
