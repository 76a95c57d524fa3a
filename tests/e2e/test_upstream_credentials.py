"""With what the gateway proves itself to its upstreams, and how it names its caller to them."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme

RULES = """
[roles]
user = ["guarded:use"]

[[tools]]
match = "*"
permissions = ["guarded:use"]
"""
SECRET = "a-shared-secret-of-one-upstream-Zb7xKq29"


def prepare(home: Any) -> None:
    home.configure(RULES)
    home.client("alice", "--role", "user")


def _secret(home: Any, name: str, text: str, mode: int = 0o600) -> Path:
    file: Path = home.folder / name
    file.write_text(text)
    file.chmod(mode)
    return file


def _behind(home: Any, url: str, *lines: str) -> None:
    keys = "\n".join(lines)
    home.configure(
        f'[[upstreams]]\nname = "guarded"\ntransport = "http"\nurl = "{url}"\nprefix = "g_"\n{keys}\n'
    )


def _state(url: str, context: ssl.SSLContext | None = None) -> Any:
    with urllib.request.urlopen(url.replace("/mcp", "/state"), context=context) as answer:
        return json.load(answer)


def _let_in(answer: Any) -> bool:
    return bool(answer.get("result", {}).get("content") == [{"type": "text", "text": "let in"}])


@pytest.fixture
def guarded(start_script: Callable[..., Any]) -> Any:
    return start_script("tests/servers/guarded.py")


def test_a_header_from_a_file_goes_with_every_request(home: Any, guarded: Any, caller: Any) -> None:
    _secret(home, "guarded.header", "Authorization: Bearer of-the-gateway\n")
    _behind(home, guarded.url, 'header_file = "guarded.header"')
    served = home.serve()
    alice = caller(served, home.folder / "clients" / "alice")
    alice.token = alice.ask("GET", "/auth/token").json["access_token"]
    assert _let_in(alice.call("g_echo"))
    state = _state(guarded.url)
    assert {headers.get("authorization") for headers in state["headers"]} == {"Bearer of-the-gateway"}
    assert "of-the-gateway" not in served.log.read_text()
    assert alice.token not in json.dumps(state)


def test_client_credentials_are_fetched_once_and_again_when_refused(
    home: Any, guarded: Any, caller: Any
) -> None:
    _secret(home, "client.secret", "s3cret/with:signs\n")
    token_url = guarded.url.replace("/mcp", "/token")
    oauth = f'token_url = "{token_url}", client_id = "gate way", client_secret_file = "client.secret"'
    _behind(home, guarded.url, f'oauth = {{ {oauth}, scope = "mcp:use" }}')
    served = home.serve()
    alice = caller(served, home.folder / "clients" / "alice")
    for _time in range(5):
        assert _let_in(alice.call("g_echo"))
    state = _state(guarded.url)
    assert state["tokens"] == 1
    assert state["forms"] == [
        {
            "grant_type": "client_credentials",
            "scope": "mcp:use",
            "who": "gate%20way s3cret%2Fwith%3Asigns",
        }
    ]
    urllib.request.urlopen(urllib.request.Request(guarded.url.replace("/mcp", "/forget"), method="POST"))
    assert _let_in(alice.call("g_echo"))
    assert _state(guarded.url)["tokens"] == 2
    assert "s3cret" not in served.log.read_text()


def test_a_token_endpoint_that_is_down_is_an_upstream_that_is_down(
    home: Any, guarded: Any, caller: Any
) -> None:
    _secret(home, "client.secret", "s3cret\n")
    oauth = 'token_url = "http://127.0.0.1:9/token", client_id = "g", client_secret_file = "client.secret"'
    _behind(home, guarded.url, f"oauth = {{ {oauth} }}")
    served = home.serve()
    assert caller(served, home.folder / "clients" / "alice").tools() == []
    assert _state(guarded.url)["headers"] == []
    assert "its token endpoint cannot be reached" in served.log.read_text()


def test_mutual_tls_towards_the_upstream(
    home: Any, start_script: Callable[..., Any], caller: Any, tmp_path: Path
) -> None:
    authority = trustme.CA()
    server = authority.issue_cert("localhost")
    client = authority.issue_cert("gateway.test", common_name="the-gateway")
    files = {name: tmp_path / name for name in ("ca.pem", "server.pem", "server.key", "gw.pem", "gw.key")}
    authority.cert_pem.write_to_path(files["ca.pem"])
    server.cert_chain_pems[0].write_to_path(files["server.pem"])
    server.private_key_pem.write_to_path(files["server.key"])
    client.cert_chain_pems[0].write_to_path(files["gw.pem"])
    client.private_key_pem.write_to_path(files["gw.key"])
    for file in files.values():
        file.chmod(0o600)
    guarded = start_script(
        "tests/servers/guarded.py", *(str(files[name]) for name in ("server.pem", "server.key", "ca.pem"))
    )
    _behind(
        home,
        guarded.url,
        f'ca = "{files["ca.pem"]}"',
        f'client_certificate = "{files["gw.pem"]}"',
        f'client_key = "{files["gw.key"]}"',
    )
    served = home.serve()
    assert _let_in(caller(served, home.folder / "clients" / "alice").call("g_echo"))
    context = ssl.create_default_context(cafile=str(files["ca.pem"]))
    context.load_cert_chain(files["gw.pem"], files["gw.key"])
    assert set(_state(guarded.url, context)["peers"]) == {"the-gateway"}


def test_the_upstreams_ca_is_the_only_one_trusted(
    home: Any, start_script: Callable[..., Any], caller: Any, tmp_path: Path
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    server = authority.issue_cert("localhost")
    server.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    server.private_key_pem.write_to_path(tmp_path / "server.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    guarded = start_script(
        "tests/servers/guarded.py", *(str(tmp_path / name) for name in ("server.pem", "server.key", "ca.pem"))
    )
    _behind(home, guarded.url, f'ca = "{tmp_path / "other.pem"}"')
    served = home.serve()
    assert caller(served, home.folder / "clients" / "alice").tools() == []


def test_the_caller_is_named_by_an_assertion_for_that_upstream_alone(
    home: Any, guarded: Any, caller: Any
) -> None:
    _secret(home, "identity.secret", SECRET)
    _behind(home, guarded.url, "assert_identity = true", 'identity_secret_file = "identity.secret"')
    served = home.serve()
    assert _let_in(caller(served, home.folder / "clients" / "alice").call("g_echo"))
    sent = [
        headers["ostiary-identity"]
        for headers in _state(guarded.url)["headers"]
        if "ostiary-identity" in headers
    ]
    assert sent
    claims = jwt.decode(sent[-1], SECRET, algorithms=["HS256"], audience=guarded.url)
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("alice", 60)
    assert jwt.get_unverified_header(sent[-1])["typ"] == "ostiary-identity+jwt"
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(sent[-1], SECRET, algorithms=["HS256"], audience="https://other.example/mcp")
    assert caller(served, token=sent[-1]).ask("GET", "/mcp").status == 401  # no access token


def test_with_an_asymmetric_key_the_assertion_is_verified_by_the_jwks(
    home: Any, guarded: Any, caller: Any
) -> None:
    key = home.folder / "signing.pem"
    subprocess.run([sys.executable, "-m", "gateway", "keys", "make", "ES256", str(key)], check=True)
    home.configure("", settings={"tokens": {"algorithm": "ES256", "private_key_file": "signing.pem"}})
    text = home.config.read_text()
    home.config.write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith("secret_file"))
    )
    _behind(home, guarded.url, "assert_identity = true")
    served = home.serve()
    alice = caller(served, home.folder / "clients" / "alice")
    assert _let_in(alice.call("g_echo"))
    sent = [h["ostiary-identity"] for h in _state(guarded.url)["headers"] if "ostiary-identity" in h][-1]
    keys = jwt.PyJWKSet.from_dict(alice.ask("GET", "/.well-known/jwks.json").json)
    key_of = keys[jwt.get_unverified_header(sent)["kid"]]
    assert jwt.decode(sent, key_of, algorithms=["ES256"], audience=guarded.url)["client_id"] == "alice"


@pytest.mark.parametrize(
    ("url", "lines", "remedy"),
    [
        ("http://127.0.0.1:9/mcp", ('header_file = "wide.header"',), "chmod 600"),
        ("http://127.0.0.1:9/mcp", ('header_file = "no.header"',), "is not there"),
        ("http://127.0.0.1:9/mcp", ('header_file = "bad.header"',), "does not hold one header field"),
        ("http://far.example/mcp", ('header_file = "good.header"',), "write an https url"),
        ("http://127.0.0.1:9/mcp", ("assert_identity = true",), "identity_secret_file"),
        ("http://127.0.0.1:9/mcp", ('identity_secret_file = "good.header"',), "assert_identity = true"),
        ("http://127.0.0.1:9/mcp", ('ca = "certs/ca.pem"',), "write an https url"),
        ("https://127.0.0.1:9/mcp", ('ca = "good.header"',), "name a PEM file"),
        ("https://127.0.0.1:9/mcp", ('client_certificate = "certs/ca.pem"',), "name both"),
        ("https://127.0.0.1:9/mcp", ('oauth = { client_id = "x" }',), "token_url"),
        ("https://127.0.0.1:9/mcp", ('assert_identity = "yes"',), "true or false"),
    ],
)
def test_what_is_wrong_is_told_at_the_start(home: Any, url: str, lines: tuple[str, ...], remedy: str) -> None:
    _secret(home, "good.header", "X-Key: 1\n")
    _secret(home, "wide.header", "X-Key: 1\n", 0o644)
    _secret(home, "bad.header", "Content-Length: 1\n")
    _behind(home, url, *lines)
    done = home.cli("check", check=False)
    assert done.returncode == 1
    assert remedy in done.stdout + done.stderr


def _handed_on(home: Any, name: str) -> str:
    der = ssl.PEM_cert_to_DER_cert((home.folder / "clients" / name / f"{name}.pem").read_text())
    return f":{base64.b64encode(der).decode()}:"


@pytest.mark.parametrize("era", ["", "--modern"])
def test_an_upstream_that_wants_it_is_told_the_callers_certificate(
    home: Any, start_script: Callable[..., Any], caller: Any, era: str
) -> None:
    guarded = start_script("tests/servers/guarded.py", *([era] if era else []))
    _behind(home, guarded.url, "client_cert = true")
    home.client("bob", "--role", "user")
    served = home.serve()
    for name in ("alice", "bob"):
        one = caller(served, home.folder / "clients" / name)
        assert _let_in(one.call("g_echo"))
        calls = _state(guarded.url)["headers"]
        assert (calls[-1]["mcp-protocol-version"] == "2026-07-28") is bool(era)
        assert calls[-1]["client-cert"] == _handed_on(home, name)
    hostile = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "g_echo"}})
    fields = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    alice = caller(served, home.folder / "clients" / "alice")
    answer = alice.ask("POST", "/mcp", hostile, {**fields, "Client-Cert": _handed_on(home, "bob")})
    assert answer.status == 200
    headers = _state(guarded.url)["headers"]
    assert headers[-1]["client-cert"] == _handed_on(home, "alice")
    assert {each.get("client-cert") for each in headers} == {
        None,  # what the gateway asked by itself
        _handed_on(home, "alice"),
        _handed_on(home, "bob"),
    }


def test_a_caller_without_a_certificate_has_none_to_be_told(home: Any, guarded: Any, caller: Any) -> None:
    _behind(home, guarded.url, "client_cert = true")
    home.config.write_text(
        home.config.read_text().replace('permissions = ["guarded:use"]', 'access = "public"')
    )
    served = home.serve()
    assert _let_in(caller(served).call("g_echo"))
    home.cli("certs", "issue", "stranger", "--out", str(home.folder / "clients" / "stranger"))
    assert _let_in(caller(served, home.folder / "clients" / "stranger").call("g_echo"))
    assert all("client-cert" not in each for each in _state(guarded.url)["headers"])


def test_no_session_is_shared_where_certificates_are_told(home: Any, guarded: Any) -> None:
    _behind(home, guarded.url, "client_cert = true", 'sessions = "shared"')
    done = home.cli("check", check=False)
    assert done.returncode != 0
    assert "client_cert" in done.stdout + done.stderr
