"""The configuration: what loads, what is refused, and that every mistake is named at once, with its place."""

from __future__ import annotations

import base64
import copy
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certs.contexts import ClientCertificates
from certs.identity import DEFAULT_RULES, CertificateField
from gateway.cli.configuration import CONFIGURATION
from gateway.config.reader import read_command_settings, read_config
from gateway.config.secret import secret_weakness
from gateway.config.shapes import PERMISSION, parse_duration, parse_size, url_problem
from gateway.config.values import Config, ConfigError, HttpUpstream, Sessions, StdioUpstream

SECRET = "kJ8vQ2mX5rT9wZ3bN6cL1dF4gH7sP0yA-uE_iOqW"
MINIMAL = """
[tls]
certificate = "certs/server.pem"
private_key = "certs/server.key"
client_ca = "certs/ca.pem"
"""
EVERYTHING = r"""
[server]
host = "127.0.0.1"
port = 8443
public_url = "https://gateway.example.org/"
drain = "30s"
trusted_hosts = ["Gateway.Internal", "[::1]"]

[tls]
certificate = "certs/server.pem"
private_key = "/etc/ostiary/server.key"
client_ca = "certs/ca.pem"
client_certificates = "required"
crl = "certs/crl.pem"
minimum_version = "1.2"

[[tls.client_id]]
from = "san_uri"
match = "spiffe://example\\.org/(?P<client_id>[a-z0-9-]+)"

[[tls.client_id]]
from = "common_name"

[tokens]
algorithm = "HS256"
secret_file = "secret.key"
issuer = "https://gateway.example.org"
audience = "https://gateway.example.org/mcp"
access_ttl = "15m"
refresh_ttl = "7d"
leeway = "5s"

[storage]
backend = "json"
path = "persistence"

[audit]
on_failure = "refuse"
checkpoint_file = "elsewhere/checkpoint.json"

[[audit.redact]]
field = "user_agent"

[[audit.redact]]
field = "target"
match = "/persons/[^/]+"

[roles]
admin = ["*:*"]
analyst = ["files:read", "reports:*"]

[[upstreams]]
name = "files"
transport = "http"
url = "http://127.0.0.1:9001/mcp"
prefix = "files_"
timeout = "90s"
max_concurrency = 64
sessions = "shared"

[[upstreams]]
name = "local"
transport = "stdio"
command = ["python3", "server.py"]
env = { TZ = "UTC" }
env_from = ["NOTES_API_KEY"]
sandbox = { memory = "512M", open_files = 64, processes = 16 }

[[tools]]
match = "files_list*"
access = "public"

[[tools]]
match = "files_*"
permissions = ["files:read"]

[[prompts]]
match = "files_*"
permissions = ["files:read"]

[[resources]]
match = "file:///*"
permissions = ["files:read"]

[[services]]
name = "persons"
prefix = "/api/v1/"
url = "http://127.0.0.1:9002"
permissions = { read = ["persons:read"], write = ["persons:write"] }

[mcp]
anonymous = "public"
authorization_servers = ["https://id.example.org/realms/one"]
denied = "hide"

[accounts]
register = "off"
lockout_after = 10
refresh_grace = "10s"

[limits]
requests_per_minute = 60000
burst = 2000
login_per_minute = 10
"""
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SHELL": "/bin/sh",
    "NOTES_API_KEY": "n0tes",
}

Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a text as ostiary.toml, with a good secret beside it."""
    secret = tmp_path / "secret.key"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)

    def reading(text: str, environment: Mapping[str, str] = ENVIRONMENT) -> Config:
        file = tmp_path / "ostiary.toml"
        file.write_text(text)
        return read_config(file, environment)

    return reading


def problems(read: Read, text: str, environment: Mapping[str, str] = ENVIRONMENT) -> list[str]:
    """What is wrong with a configuration; each problem is one line that begins with its file or the environment."""
    with pytest.raises(ConfigError) as caught:
        read(text, environment)
    for line in caught.value.problems:
        assert "\n" not in line
        assert re.match(r"(/\S+/ostiary\.toml|environment): ", line)
        assert "; " in line or "?" in line, f"no remedy: {line}"
    return caught.value.problems


def what_is_wrong(read: Read, text: str, environment: Mapping[str, str]) -> list[str]:
    """The problems; none where it loads."""
    try:
        read(text, environment)
    except ConfigError as error:
        return error.problems
    return []


def test_the_least_configuration_has_the_defaults_of_the_contract(read: Read, tmp_path: Path) -> None:
    config = read(MINIMAL)
    assert (config.server.host, config.server.port, config.server.drain) == ("127.0.0.1", 8443, 30.0)
    assert config.server.public_url == config.tokens.issuer == "https://localhost:8443"
    assert config.tokens.audience == "https://localhost:8443/mcp"
    assert (config.tokens.access_ttl, config.tokens.refresh_ttl) == (3600.0, 604800.0)
    assert config.tokens.secret == SECRET
    assert config.tls.certificate == tmp_path / "certs/server.pem"
    assert config.tls.client_certificates is ClientCertificates.OPTIONAL
    assert config.tls.client_id == DEFAULT_RULES
    assert config.storage.path == tmp_path / "persistence"
    assert config.roles == {"admin": ("*:*",)}
    assert (config.upstreams, config.tools, config.services) == ((), (), ())


def test_everything_on_the_contract_page_loads(read: Read, tmp_path: Path) -> None:
    config = read(EVERYTHING)
    assert config.server.public_url == "https://gateway.example.org"
    assert config.server.trusted_hosts == ("gateway.internal", "::1")
    assert config.tls.private_key == Path("/etc/ostiary/server.key")
    assert config.tls.minimum_version == "1.2"
    uri, common_name = config.tls.client_id
    assert uri.field is CertificateField.SAN_URI
    assert uri.match is not None
    assert uri.match.fullmatch("spiffe://example.org/agent-7")
    assert (common_name.field, common_name.match) == (CertificateField.COMMON_NAME, None)
    assert config.tokens.access_ttl == 900.0
    files, local = config.upstreams
    assert isinstance(files, HttpUpstream)
    assert (files.timeout, files.prefix, files.sessions) == (90.0, "files_", Sessions.SHARED)
    assert isinstance(local, StdioUpstream)
    assert (local.command, local.folder, local.sessions) == (
        ("python3", "server.py"),
        tmp_path,
        Sessions.SHARED,
    )
    assert (local.sandbox.memory, local.sandbox.open_files, local.sandbox.processes) == (512 << 20, 64, 16)
    assert config.tools[0].permissions == ()
    assert config.tools[1].permissions == ("files:read",)
    assert config.tools[0].pattern.fullmatch("files_list_all")
    assert not config.tools[0].pattern.fullmatch("FILES_list")
    assert config.services[0].prefix == "/api/v1/"
    assert (config.services[0].read, config.services[0].write) == (("persons:read",), ("persons:write",))
    assert config.mcp.authorization_servers == ("https://id.example.org/realms/one",)
    assert config.audit.checkpoint_file == tmp_path / "elsewhere/checkpoint.json"
    whole, part = config.audit.redact
    assert (whole.field, whole.match) == ("user_agent", None)
    assert part.match is not None
    assert part.match.sub("", "/persons/7/notes") == "/notes"


def test_what_init_writes_loads_as_it_is_and_with_its_examples_taken_in(read: Read) -> None:
    assert read(CONFIGURATION).roles == {"admin": ("*:*",)}
    # Every comment that is a key or a table, with or without a remark behind it.
    everything = re.sub(r'(?m)^# (?=\[|[a-z_]+ = ["\[{0-9])', "", CONFIGURATION)
    loaded = read(everything)
    assert [upstream.name for upstream in loaded.upstreams] == ["files", "notes"]
    assert loaded.roles["analyst"] == ("files:read", "reports:*")
    assert len(loaded.tls.client_id) == 2


def test_a_child_process_sees_only_what_it_is_given(read: Read) -> None:
    local = read(EVERYTHING).upstreams[1]
    assert isinstance(local, StdioUpstream)
    assert dict(local.environment) == {
        "PATH": "/usr/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "NOTES_API_KEY": "n0tes",
    }


def test_no_repr_shows_a_secret(read: Read) -> None:
    shown = repr(read(EVERYTHING))
    assert SECRET not in shown
    assert "n0tes" not in shown


def test_five_mistakes_are_named_at_once(read: Read, tmp_path: Path) -> None:
    found = problems(
        read,
        """
[server]
prot = 8443
drain = "30 seconds"
[tls]
certificate = "certs/server.pem"
client_certificates = "required"
[limits]
burst = "many"
""",
    )
    file = tmp_path / "ostiary.toml"
    assert [line.removeprefix(f"{file}: ").split(": ")[0] for line in found] == [
        "[server] drain",
        "[server] prot",
        "[tls] private_key",
        "[tls] client_ca",
        "[limits] burst",
    ]
    assert 'did you mean "port"?' in found[1]


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("[server]\nport = 70000", "[server] port", "from 0 to 65535"),
        ("[server]\nport = true", "[server] port", "must be an integer, not a boolean"),
        ("[server]\nhost = 'https://x'", "[server] host", "is not a host name"),
        ("[server]\npublic_url = 'http://localhost'", "[server] public_url", "begin with https://"),
        ("[server]\npublic_url = 'https://localhost/gate'", "[server] public_url", "must have no path"),
        ("[server]\ntrusted_hosts = ['https://x:1']", "[server] trusted_hosts", "take out the scheme"),
        ("[server]\ndrain = 30", "[server] drain", 'write "90s"'),
        ("[server]\ndrain = '2d'", "[server] drain", "from 0s to 1h"),
        ("[sever]\nport = 1", "sever", 'did you mean "server"?'),
        ("server = 1", "server", "must be a table, not an integer"),
        ("[tokens]\nalgorithm = 'HS265'", "[tokens] algorithm", "is not one of: HS256"),
        ("[tokens]\nalgorithm = 'RS256'", "[tokens] private_key_file", "is missing, and RS256 needs it"),
        ("[tokens]\nprivate_key_file = 'k.pem'", "[tokens] private_key_file", "of no use to HS256"),
        (
            "[tokens]\nalgorithm = 'ES256'\nprivate_key_file = 'k.pem'",
            "[tokens] private_key_file",
            "ostiary keys make ES256",
        ),
        ("[tokens]\naccess_ttl = '0s'", "[tokens] access_ttl", "from 1s"),
        ("[tokens]\nissuer = 'https://a:b@c'", "[tokens] issuer", "must not hold a user or a password"),
        ("[tokens]\nsecret_file='secret.key'\nsecret_env='X'", "[tokens] secret_env", "keep one of the two"),
        ("[storage]\nbackend = 'postgres'", "[storage] backend", "is not built yet"),
        ("[storage]\nbackend = 'sqlite'", "[storage] backend", 'write "json"'),
        ("[storage]\nredis_url_env = 'OSTIARY_REDIS_URL'", "[storage] redis_url_env", "is not built yet"),
        ("[storage]\nurl_env = 'OSTIARY_DATABASE_URL'", "[storage] url_env", "is not built yet"),
        (
            "[[audit.redact]]\nfield = 'client_id'",
            "[[audit.redact]] #1 field",
            "is not one that can be redacted",
        ),
        ("[[audit.redact]]\nmatch = 'x'", "[[audit.redact]] #1 field", "is not one that can be redacted"),
        (
            "[[audit.redact]]\nfield = 'target'\nmatch = '('",
            "[[audit.redact]] #1 match",
            "is not a regular expression",
        ),
        ("[audit]\ncheckpoint_files = 'x'", "[audit] checkpoint_files", 'did you mean "checkpoint_file"?'),
        ("[accounts]\nlockout_after = 0", "[accounts] lockout_after", "from 1 to 1000"),
        ("[mcp]\nanonymous = 'challenge'", "[mcp] anonymous", "needs an authorization endpoint"),
        ("[mcp]\nauthorization_servers = ['id']", "[mcp] authorization_servers", "begin with https://"),
        ("[roles]\nadmin = ['everything']", "[roles] admin", 'write "resource:action"'),
        ("[roles]\nadmin = ['a:b:c']", "[roles] admin", 'write "resource:action"'),
        ("[roles]\n'the boss' = []", "[roles] 'the boss'", "is not a role name"),
        ("[[tools]]\nmatch = '*'", "[[tools]] #1 access", "neither is given"),
        (
            "[[tools]]\nmatch = '*'\naccess = 'public'\npermissions = ['a:b']",
            "[[tools]] #1 access",
            "both are given",
        ),
        ("[[tools]]\nmatch = '*'\npermissions = []", "[[tools]] #1 permissions", "is empty"),
        ("[[tools]]\nmatch = '*'\naccess = 'private'", "[[tools]] #1 access", 'write "public"'),
        ("[[tools]]\naccess = 'public'", "[[tools]] #1 match", "is missing"),
        ("[tools]\nmatch = '*'", "tools", "write [[tools]]"),
        (
            "[[upstreams]]\ntransport = 'http'\nurl = 'http://x/mcp'",
            "[[upstreams]] #1 name",
            "give it a name",
        ),
        (
            "[[upstreams]]\nname = 'Files'\ntransport = 'http'\nurl = 'http://x'",
            "[[upstreams]] #1 name",
            "lower-case",
        ),
        ("[[upstreams]]\nname = 'a'", "[[upstreams]] #1 transport", 'write "http" or "stdio"'),
        ("[[upstreams]]\nname = 'a'\ntransport = 'http'", "[[upstreams]] #1 url", "is missing"),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'http'\nurl = 'ftp://x'",
            "[[upstreams]] #1 url",
            "begin with http:// or https://",
        ),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'http'\nurl = 'http://x/mcp?key=1'",
            "[[upstreams]] #1 url",
            "no query",
        ),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'http'\nurl = 'http://x'\nprefix = 'a/b'",
            "[[upstreams]] #1 prefix",
            "as the names of MCP tools do",
        ),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'http'\nurl = 'http://x'\ncommand = ['x']",
            "[[upstreams]] #1 command",
            "no such key",
        ),
        ("[[upstreams]]\nname = 'a'\ntransport = 'stdio'", "[[upstreams]] #1 command", "is missing"),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'stdio'\ncommand = ['x']\nenv_from = ['NOWHERE']",
            "[[upstreams]] #1 env_from",
            "NOWHERE is not set",
        ),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'stdio'\ncommand = ['x']\nsandbox = { memory = '512' }",
            "[[upstreams]] #1 sandbox memory",
            'write "64K"',
        ),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'stdio'\ncommand = ['x']\nsandbox = { user = 'no such user' }",
            "[[upstreams]] #1 sandbox user",
            "user",
        ),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'stdio'\ncommand = ['x']\nsandbox = { read = ['.'] }",
            "[[upstreams]] #1 sandbox read",
            "holds the gateway's own files",
        ),
        (
            "[[upstreams]]\nname = 'a'\ntransport = 'stdio'\ncommand = ['x']\nsandbox = { write = ['nowhere'] }",
            "[[upstreams]] #1 sandbox write",
            "is not there",
        ),
        (
            "[[services]]\nname = 'a'\nprefix = '/a'\nurl = 'http://x'",
            "[[services]] #1 prefix",
            "begin and end",
        ),
        (
            "[[services]]\nname = 'a'\nprefix = '/'\nurl = 'http://x'",
            "[[services]] #1 prefix",
            "begin and end",
        ),
        (
            "[[services]]\nname = 'a'\nprefix = '/auth/x/'\nurl = 'http://x'",
            "[[services]] #1 prefix",
            "gateway's own",
        ),
        (
            "[[services]]\nname = 'a'\nprefix = '/.well-known/'\nurl = 'http://x'",
            "[[services]] #1 prefix",
            "; ",
        ),
        ("[[services]]\nname = 'a'\nprefix = '/a/../mcp/'\nurl = 'http://x'", "[[services]] #1 prefix", "; "),
        (
            "[[services]]\nname = 'a'\nprefix = '/a/'\nurl = 'http://x/path'",
            "[[services]] #1 url",
            "must have no path",
        ),
        (
            "[[services]]\nname = 'a'\nprefix = '/a/'\nurl = 'http://x'\npermissions = { delete = ['a:b'] }",
            "[[services]] #1 permissions delete",
            "no such key",
        ),
    ],
)
def test_each_mistake_is_named_with_its_place_and_its_remedy(
    read: Read, tmp_path: Path, text: str, place: str, remedy: str
) -> None:
    document = f"{MINIMAL}\n{text}" if text.startswith("[") else f"{text}\n{MINIMAL}"
    (line,) = problems(read, document)
    assert line.startswith(f"{tmp_path / 'ostiary.toml'}: {place}: ")
    assert remedy in line


def test_names_and_prefixes_are_unique(read: Read) -> None:
    upstream = "[[upstreams]]\nname = '{}'\ntransport = 'http'\nurl = 'http://x/mcp'\nprefix = '{}'\n"
    service = "[[services]]\nname = '{}'\nprefix = '/a/'\nurl = 'http://x'\n"
    for second in ("", "p_b_"):
        assert len(read(MINIMAL + upstream.format("a", second) + upstream.format("b", "")).upstreams) == 2
    (line,) = problems(read, MINIMAL + upstream.format("a", "p_") + upstream.format("b", "p_"))
    assert '[[upstreams]] #2 prefix: is that of the upstream "a", too; give each its own' in line
    (line,) = problems(read, MINIMAL + upstream.format("a", "a_") + upstream.format("a", "b_"))
    assert "[[upstreams]] #2 name: " in line
    (line,) = problems(read, MINIMAL + service.format("a") + service.format("b"))
    assert "[[services]] #2 prefix: is taken" in line


@pytest.mark.parametrize("rule", ["match = '('", "match = '(?P<client_id>'", "match = 'a{99999999999}'"])
def test_a_bad_regular_expression_is_a_mistake(read: Read, rule: str) -> None:
    (line,) = problems(read, f"{MINIMAL}[[tls.client_id]]\nfrom = 'san_uri'\n{rule}")
    assert "[[tls.client_id]] #1 match: is not a regular expression" in line


def test_client_certificates_need_a_ca(read: Read) -> None:
    without = MINIMAL.replace('client_ca = "certs/ca.pem"', "")
    (line,) = problems(read, without)
    assert 'client_certificates = "none"' in line
    assert read(f'{without}client_certificates = "none"').tls.client_ca is None


def test_an_override_takes_the_place_of_a_scalar(read: Read) -> None:
    environment = {
        "OSTIARY_SERVER_PORT": "0",
        "OSTIARY_TOKENS_ACCESS_TTL": "2s",
        "OSTIARY_TLS_CLIENT_CERTIFICATES": "required",
        "OSTIARY_STORAGE_PATH": "elsewhere",
        "OSTIARY_LIMITS_BURST": "7",
        "OSTIARY_CONFIG": "x",
        "OSTIARY_SECRET_KEY": "x",
        "OSTIARY_TEST_REDIS": "x",
    }
    config = read(MINIMAL, environment)
    assert config.server.port == 0
    assert config.tokens.access_ttl == 2.0
    assert config.tls.client_certificates is ClientCertificates.REQUIRED
    assert config.storage.path == config.file.parent / "elsewhere"
    assert config.limits.burst == 7


def test_overrides_are_checked_as_the_file_is(read: Read) -> None:
    environment = {
        "OSTIARY_SERVER_PORT": "many",
        "OSTIARY_SERVER_PROT": "1",
        "OSTIARY_SERVER_TRUSTED_HOSTS": "a",
        "OSTIARY_TOKENS_ACCESS_TTL": "2",
        "OSTIARY_TOKENS_SECRET": "hunter2",
        "OSTIARY_ELSEWHERE": "1",
    }
    found = problems(read, MINIMAL, environment)
    assert {line.split(": ")[1] for line in found} == environment.keys()
    assert all(line.startswith("environment: ") for line in found)
    assert not any("hunter2" in line for line in found)
    assert any('did you mean "OSTIARY_SERVER_PORT"?' in line for line in found)


@pytest.mark.parametrize("table", ["ROLES", "TOOLS", "UPSTREAMS", "SERVICES"])
def test_what_cannot_be_overridden_is_sent_to_the_file(read: Read, table: str) -> None:
    (line,) = problems(read, MINIMAL, {f"OSTIARY_{table}_X": "1"})
    assert f"write it in the file, under {table.lower()}" in line
    assert "did you mean" not in line


@pytest.mark.parametrize(
    ("tokens", "variable"), [("", "OSTIARY_SECRET_KEY"), ('[tokens]\nsecret_env = "OURS"\n', "OURS")]
)
def test_no_child_process_gets_the_signing_secret(read: Read, tokens: str, variable: str) -> None:
    child = f"""
        [[upstreams]]
        name = "a"
        transport = "stdio"
        command = ["x"]
        env_from = ["{variable}"]
    """
    (line,) = problems(read, f"{MINIMAL}{tokens}{child}", {variable: SECRET})
    assert "[[upstreams]] #1 env_from" in line
    assert "holds the gateway's signing secret" in line
    assert SECRET not in line


def test_a_variable_that_the_file_names_is_no_override(read: Read) -> None:
    text = f'{MINIMAL}[tokens]\nsecret_env = "OSTIARY_OUR_SECRET"'
    assert read(text, {"OSTIARY_OUR_SECRET": SECRET}).tokens.secret == SECRET
    (line,) = problems(read, text, {})
    assert "OSTIARY_OUR_SECRET is not set" in line


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("short", "has 5 bytes"),
        ("a" * 64, "repeats itself"),
        ("password" * 4, "repeats itself"),
        ("changeme-changeme1-changeme22-ok33", "placeholder"),
        ("super-secret-jwt-signing-value-42-xyz", "placeholder"),
        ("DO_NOT_USE_IN_PRODUCTION_1234_abcdefg", "placeholder"),
        ("12345678901234567890123456789012", "counts on"),
        ("abcdefghijklmnopqrstuvwxyz0123456789", "counts on"),
        ("0123456789abcdef0123456789abcdef", "counts on"),
        ("your-256-bit-secret-your-256-bit", "repeats itself"),
        ("Xq9-your-512-bit-secret-goes-in-here", "placeholder"),
        ("Correct-Horse-7-Battery-Staple-81-Moor", "placeholder"),
        ("your-secret-key-at-least-32-characters", "placeholder"),
    ],
)
def test_a_weak_secret_is_refused_and_not_shown(read: Read, tmp_path: Path, secret: str, why: str) -> None:
    (tmp_path / "secret.key").write_text(f" {secret}\n")
    (line,) = problems(read, MINIMAL)
    assert "[tokens] secret_file: " in line
    assert why in line
    (line,) = problems(read, f'{MINIMAL}[tokens]\nsecret_env = "S"', {"S": secret})
    assert "[tokens] secret_env: " in line
    assert secret not in line


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_secret_that_others_can_read_is_refused_with_the_command_that_mends_it(
    read: Read, tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "secret.key"
    file.chmod(mode)
    (line,) = problems(read, MINIMAL)
    assert line.endswith(f"; chmod 600 {file}")


def test_a_secret_file_that_is_none(read: Read, tmp_path: Path) -> None:
    file = tmp_path / "secret.key"
    file.unlink()
    (line,) = problems(read, MINIMAL)
    assert "is not there" in line
    os.mkfifo(file, 0o600)
    (line,) = problems(read, MINIMAL)
    assert "is not a file" in line
    file.unlink()
    file.write_bytes(b"\xff" * 48)
    file.chmod(0o600)
    (line,) = problems(read, MINIMAL)
    assert "is not text" in line


def test_a_secret_in_the_file_is_refused_by_saying_where_it_belongs(read: Read) -> None:
    (line,) = problems(read, f'{MINIMAL}[tokens]\nsecret = "{SECRET}"')
    assert "[tokens] secret: a secret does not belong here" in line
    assert SECRET not in line


def test_commands_on_the_store_need_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "ostiary.toml"
    file.write_text(EVERYTHING)
    found = read_command_settings(file, {})
    assert found.storage.path == tmp_path / "persistence"
    assert found.roles["analyst"] == ("files:read", "reports:*")
    assert found.public_host == "gateway.example.org"
    file.write_text(f"{EVERYTHING}\n[nonsense]")
    with pytest.raises(ConfigError):
        read_command_settings(file, {})


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`ostiary init DIR`.*--config FILE"):
        read_config(tmp_path / "ostiary.toml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"[server]\nport = \n", "line 2, column 8"),
        (b"[server", "at the end of the file"),
        (b"a = 1\na = 2\n", "line 2, column"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"9" * 10_000, "not valid TOML"),
        (b"#" * (1 << 20) + b"#", "is larger than"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_place(tmp_path: Path, content: bytes, where: str) -> None:
    file = tmp_path / "ostiary.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(file, {})
    (line,) = caught.value.problems
    assert where in line


def test_durations_and_sizes() -> None:
    assert [parse_duration(text) for text in ("90s", "15m", "1h", "7d", "0s")] == [
        90.0,
        900.0,
        3600.0,
        604800.0,
        0.0,
    ]
    assert not any(map(parse_duration, ("", "1", "s", "1.5h", "-1s", "1h30m", " 1s", "1ms", "٣s", "1s\n")))
    assert [parse_size(text) for text in ("64K", "512M", "1G")] == [64 << 10, 512 << 20, 1 << 30]
    assert not any(map(parse_size, ("", "1", "M", "1.5M", "-1M", "1MB", "1m")))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9001/mcp",
        "https://[::1]:9001/mcp",
        "http://files.internal",
        "http://xn--bcher-kva.example/a%20b",
    ],
)
def test_urls_that_are_usable(url: str) -> None:
    assert url_problem(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "//host",
        "http://",
        "http:///path",
        "http://user@host",
        "http://host:port",
        "http://host:0",
        "http://host:99999",
        "http://[::1",
        "http://ho st/",
        "http://host\t/",
        "http://host\\@other",
        "http://bücher.example",
        "http://host?",
        "http://host#",
        "file:///etc/passwd",
    ],
)
def test_urls_that_are_not(url: str) -> None:
    assert url_problem(url) is not None


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a:b", True),
        ("*:*", True),
        ("a.b-c_d:*", True),
        ("a", False),
        ("A:b", False),
        ("a:b:c", False),
        ("a*:b", False),
        (":", False),
        ("a:b\n", False),
    ],
)
def test_permissions(text: str, good: bool) -> None:
    assert (PERMISSION.fullmatch(text) is not None) is good


def test_a_random_secret_is_not_weak() -> None:
    assert secret_weakness(SECRET) is None
    for seed in range(500):
        random = Random(seed)
        assert secret_weakness(base64.urlsafe_b64encode(random.randbytes(48)).decode()) is None
        assert secret_weakness(random.randbytes(32).hex()) is None


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.datetimes()
    | st.sampled_from(["", "public", "1h", "512M", "https://x", "*:*", "../..", "\0", "a" * 300, "(", "-1"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*path, key), *_places(item, (*path, key)))]


PARSED = tomllib.loads(EVERYTHING)
PLACES = _places(PARSED)


@given(place=st.sampled_from(PLACES), value=anything)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_random_value_at_any_key_loads_or_is_a_config_error(
    read: Read, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, ...], value: object
) -> None:
    document = copy.deepcopy(PARSED)
    parent: Any = document
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    with monkeypatch.context() as patch:
        patch.setattr("gateway.config.shapes.tomllib.loads", lambda _text: document)
        found = what_is_wrong(read, "", ENVIRONMENT)
    assert not any("\n" in line for line in found)


@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace"))
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_a_config_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ostiary.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        read_config(file, {})


@given(
    names=st.lists(
        st.sampled_from(
            ["SERVER_PORT", "SERVER_HOST", "TOKENS_LEEWAY", "TLS_CLIENT_ID", "MCP", "_", "ROLES_A"]
        )
    ),
    value=st.text(st.characters(exclude_characters="\0"), max_size=12) | st.just("\udc80"),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_random_override_loads_or_is_a_config_error(read: Read, names: list[str], value: str) -> None:
    found = what_is_wrong(read, MINIMAL, {f"OSTIARY_{name}": value for name in names})
    assert not any("\n" in line for line in found)


def test_a_secret_beside_a_private_key_is_a_contradiction(read: Read) -> None:
    text = "[tokens]\nalgorithm = 'ES256'\nprivate_key_file = 'k.pem'\nsecret_file = 's'"
    assert any("secret_file: is of no use to ES256" in each for each in problems(read, f"{MINIMAL}\n{text}"))
