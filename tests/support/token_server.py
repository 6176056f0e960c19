"""A server of registry tokens, as Docker Hub and GitLab have one, for CNCF distribution to trust.

GET /token?service=…&scope=repository:NAME:pull with Basic gives a JSON Web Token; without the right password, or for
another service, 401. Source: distribution, "Token Authentication Specification".
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from support.issuer import public_key, sign

ISSUER, SERVICE, KEY_ID = "tokens.example", "far.example", "one"


class TokenServer(ThreadingHTTPServer):
    """`login` is user:password that it gives tokens to; `asked` are the scopes that it was asked for."""

    def __init__(self, folder: Path, login: str) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._keys = folder / "token-keys.json"
        self._keys.write_text(json.dumps({"keys": [public_key(self._key, kid=KEY_ID)]}))
        self.authorization = "Basic " + base64.b64encode(login.encode()).decode()
        self.asked: list[str] = []

    @contextmanager
    def serving(self) -> Iterator[TokenServer]:
        thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def settings(self) -> dict[str, Any]:
        """`auth` of distribution's settings."""
        realm = f"http://127.0.0.1:{self.server_address[1]}/token"
        return {"token": {"realm": realm, "issuer": ISSUER, "service": SERVICE, "jwks": str(self._keys)}}

    def token(self, scopes: Sequence[str]) -> str:
        parts = [scope.split(":") for scope in scopes]  # no name in these tests has a colon
        access = [{"type": kind, "name": name, "actions": actions.split(",")} for kind, name, actions in parts]
        now = int(time.time())
        times = {"iat": now, "nbf": now - 5, "exp": now + 300}
        claims = {"iss": ISSUER, "sub": "me", "aud": SERVICE, "jti": uuid.uuid4().hex, "access": access, **times}
        return sign(claims, self._key, "ES256", kid=KEY_ID)


class _Request(BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        scopes = " ".join(query.get("scope", [])).split()
        is_known = self.headers.get("Authorization") == self.server.authorization and query.get("service") == [SERVICE]
        self.server.asked += scopes
        body = json.dumps({"token": self.server.token(scopes), "expires_in": 300} if is_known else {}).encode()
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what was asked is in `asked`."""
