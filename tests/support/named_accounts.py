"""A real Wharfage whose accounts have host names, under TLS with the certificate that it makes for itself.

It listens at an address of this machine; `Names` tells programs where its names are. Requests of boto3 go to the
address, which the certificate holds too, names being docker's business.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from support.host_names import Names, own_address
from support.programs import Daemon
from support.server import START_SECONDS, Server, free_port

REGION = "us-east-1"
ACCOUNT, OTHER = "123456789012", "210987654321"

_session = boto3.session.Session()  # it keeps the API models, which take 0.1 s to read


def hosts(suffix: str) -> list[str]:
    """The names of a server with this suffix and two accounts."""
    own = [f"{account}.dkr.ecr.{REGION}" for account in (ACCOUNT, OTHER)]
    return [f"{each}.{suffix}" for each in (*own, f"api.ecr.{REGION}", "sts", "iam")]


@dataclass(frozen=True, slots=True)
class NamedServer:
    """`server` at its address, `ca` what vouches for it."""

    server: Server
    suffix: str
    ca: Path

    @property
    def url(self) -> str:
        return f"https://{self.server.address}"

    def registry(self, account: str = ACCOUNT) -> str:
        """host:port of the account's registry."""
        return f"{account}.dkr.ecr.{REGION}.{self.suffix}:{self.server.port}"

    def client(self, service: str, key: tuple[str, ...]) -> Any:
        """boto3 for an access key, or one with a session token."""
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        return _session.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            verify=str(self.ca),
            config=Config(retries={"total_max_attempts": 1}),
            **dict(zip(names, key, strict=False)),
        )

    def password(self, key: tuple[str, ...]) -> str:
        """What `aws ecr get-login-password` prints."""
        [data] = self.client("ecr", key).get_authorization_token()["authorizationData"]
        return base64.b64decode(data["authorizationToken"]).decode().removeprefix("AWS:")

    def iam(self, operation: str, **parameters: Any) -> Any:
        """As the default account's administrator; a policy that is not text yet becomes it."""
        given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in parameters.items()}
        return self.client("iam", self.server.credentials())._make_api_call(operation, given)


@contextmanager
def named_server(data: Path, suffix: str, names: Names) -> Iterator[NamedServer]:
    """Running and ready, and docker trusts its hosts, which are among `names`."""
    settings = data.with_name("settings.toml")
    settings.write_text(f"[registry]\nsuffix = '{suffix}'\n")
    address, port = own_address(), free_port()
    flags = ("--listen", f"{address}:{port}", "--workers", "2", "--tls-self-signed", "--config", settings)
    daemon = Daemon.start([sys.executable, "-m", "proxy", "serve", "--data", data, *flags], data.with_name("log"))
    found = NamedServer(Server(daemon, f"{address}:{port}", data), suffix, data / "tls" / "ca.crt")
    try:
        daemon.wait_until(lambda: _is_ready(found), START_SECONDS)
        for account in (ACCOUNT, OTHER):
            names.trust(found.registry(account), found.ca)
        yield found
    finally:
        found.server.stop()


def _is_ready(found: NamedServer) -> bool:
    try:
        trusting = ssl.create_default_context(cafile=str(found.ca))
        with urllib.request.urlopen(f"{found.url}/readyz", context=trusting, timeout=5) as answer:  # noqa: S310  # https
            return bool(answer.status == 200)
    except OSError:
        return False
