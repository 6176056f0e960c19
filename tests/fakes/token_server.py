"""A server of registry tokens, as Docker Hub and GitLab have one, for CNCF distribution to trust.

GET /token?service=…&scope=repository:NAME:pull with Basic gives a JSON Web Token, signed by a certificate that
`certificate` holds; without the right password, 401. Source: distribution, "Token Authentication Specification".
"""

from __future__ import annotations

import base64
import datetime
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ISSUER, SERVICE = "tokens.example", "far.example"


class TokenServer:
    """`login` is user:password that it gives tokens to; `asked` the scopes that it gave one for, joined."""

    def __init__(self, folder: Path, login: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / "tokens.pem"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        self._login = "Basic " + base64.b64encode(login.encode()).decode()
        self.asked: list[str] = []
        self.address = ""

    @contextmanager
    def serving(self) -> Iterator[TokenServer]:
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers.get("Authorization", "") == tokens._login
                scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
                body = json.dumps({"token": tokens._token(scopes), "expires_in": 300} if allowed else {}).encode()
                self.send_response(200 if allowed else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def settings(self) -> dict[str, Any]:
        """`auth` of distribution's settings."""
        realm = f"http://{self.address}/token"
        trusted = {"issuer": ISSUER, "service": SERVICE, "rootcertbundle": str(self.certificate)}
        return {"token": {"realm": realm, **trusted}}

    def _token(self, scopes: list[str]) -> str:
        self.asked.append(" ".join(scopes))
        access = []
        for scope in " ".join(scopes).split():
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "me", "aud": SERVICE, "exp": now + 300, "nbf": now - 5, "iat": now, "jti": "1"}
        return jwt.encode(claims | {"access": access}, self._key, "ES256", headers={"x5c": self._chain})
