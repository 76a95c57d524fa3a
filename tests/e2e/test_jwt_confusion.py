"""A public key is no secret: a token that is "signed" with it by HMAC is not good."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from tests.conftest import Caller, Home


def _part(document: dict[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")


def test_the_public_key_signs_nothing(home: Home, caller: Any) -> None:
    file = home.folder / "signing.pem"
    subprocess.run([sys.executable, "-m", "gateway", "keys", "make", "RS256", str(file)], check=True)
    text = home.config.read_text().replace('secret_file = "secret.key"', 'private_key_file = "signing.pem"')
    home.config.write_text(text.replace("[tokens]\n", '[tokens]\nalgorithm = "RS256"\n', 1))
    root = home.certificate("root")
    served = home.serve()
    one: Caller = caller(served, root)
    token = one.ask("GET", "/auth/token").json["access_token"]
    keys = jwt.PyJWKSet.from_dict(one.ask("GET", "/.well-known/jwks.json").json)
    header = jwt.get_unverified_header(token)
    public = keys[header["kid"]].key
    claims = jwt.decode(token, options={"verify_signature": False})
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        b"",
    ]
    assert caller(served, root, token).ask("GET", "/auth/me").status == 200
    for algorithm, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
        for secret in secrets:
            signed = _part(header | {"alg": algorithm}) + b"." + _part(claims)
            mac = hmac.digest(secret, signed, digest)
            forged = (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()
            answer = caller(served, root, forged).ask("GET", "/auth/me")
            assert (answer.status, answer.json["reason"]) == (401, "token_signature")
