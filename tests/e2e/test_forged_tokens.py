"""Forged tokens at a gateway whose public key everybody can read: JWT confusion in its known forms (RFC 8725)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config.values import Algorithm
from gateway.identity.signing_keys import make
from tests.conftest import Caller, Home

PASSWORD = "Correct-Horse-7-Battery"
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def prepare(home: Home) -> None:
    """RS256; bob may do little, root everything."""
    home.cli("clients", "add", "bob", "--password-stdin", stdin=f"{PASSWORD}\n")
    home.cli("keys", "retire")
    signing = home.folder / "signing.pem"
    signing.touch(mode=0o600)
    signing.write_text(make(Algorithm.RS256))
    text = home.config.read_text()
    mine = f'algorithm = "RS256"\nprivate_key_file = "{signing.name}"'
    home.config.write_text(text.replace('secret_file = "secret.key"', mine))


class Forger:
    """Bob, who has a token of his own and the published keys."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        issued = caller.form("/auth/token", username="bob", password=PASSWORD).json
        self.access, self.refresh = issued["access_token"], issued["refresh_token"]
        self.signature = self.access.rpartition(".")[2]
        self.header = jwt.get_unverified_header(self.access)
        self.claims = jwt.decode(self.access, options={"verify_signature": False})
        self.as_root = {**self.claims, "sub": "root", "client_id": "root", "username": "root"}
        (self.jwk,) = caller.ask("GET", "/.well-known/jwks.json").json["keys"]

    def unsigned(self, **header: Any) -> str:
        parts = ({**self.header, **header}, self.as_root)
        return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts)

    def hmac(self, key: bytes, **header: Any) -> str:
        message = self.unsigned(**header)
        digest = hmac.new(key, message.encode(), HASHES[header["alg"]]).digest()
        return f"{message}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"

    def told(self, token: str) -> tuple[int, str]:
        answer = self._caller.ask("GET", "/auth/me", headers={"Authorization": f"Bearer {token}"})
        return answer.status, answer.json.get("reason", answer.json.get("client_id"))


@pytest.fixture(scope="module")
def forger(prepared: Path) -> Iterator[Forger]:
    gate = Home(prepared)
    served = gate.serve()
    with Caller(gate, served) as caller:
        yield Forger(caller)
    assert served.stop() == 0
    served.close()
    assert "Traceback" not in served.log.read_text()


def test_his_own_token_is_good_and_the_same_with_another_payload_is_not(forger: Forger) -> None:
    assert forger.told(forger.access) == (200, "bob")
    assert forger.told(f"{forger.unsigned()}.{forger.signature}") == (401, "token_signature")
    assert forger.told(forger.refresh) == (401, "token_type")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
def test_no_algorithm_is_no_signature(forger: Forger, algorithm: str) -> None:
    for signature in ("", forger.signature):
        assert forger.told(f"{forger.unsigned(alg=algorithm)}.{signature}")[0] == 401


@pytest.mark.parametrize("algorithm", HASHES)
def test_the_public_key_is_no_secret(forger: Forger, algorithm: str) -> None:
    key = jwt.PyJWK(forger.jwk).key
    for encoding in (Encoding.PEM, Encoding.DER):
        written = key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        for secret in (written, written.strip(), forger.jwk["n"].encode(), json.dumps(forger.jwk).encode()):
            assert forger.told(forger.hmac(secret, alg=algorithm)) == (401, "token_signature")


@pytest.mark.parametrize("kid", ["../../../dev/null", "secret.key", "' OR 1=1 --", "", "\x00", "a" * 4000])
def test_kid_is_a_name_and_never_a_path(forger: Forger, kid: str) -> None:
    for secret in (b"", b"\x00", b"0" * 32):
        assert forger.told(forger.hmac(secret, alg="HS256", kid=kid))[0] == 401


@pytest.mark.parametrize("kid", [None, 5, ["x"], {"a": 1}])
def test_kid_is_text(forger: Forger, kid: Any) -> None:
    assert forger.told(f"{forger.unsigned(kid=kid)}.{forger.signature}")[0] == 401


def test_no_key_is_taken_from_the_token(forger: Forger) -> None:
    mine = rsa.generate_private_key(65537, 2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(mine.public_key()))
    for header in (
        {},
        {"jwk": public},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/chain.pem"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"]},
    ):
        token = jwt.encode(forger.as_root, mine, "RS256", {**forger.header, **header})
        assert forger.told(token)[0] == 401, header
