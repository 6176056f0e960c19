"""A KMS: moto's server on a free loopback port, stopped by its pid. Its keys live in its memory, and end with it.

An outage is therefore a connection cut by `support.fault_proxy`, never a stop. moto holds wrapped keys to their key and
their encryption context; it knows no policies and lets disabled keys work, for which there is `support.fake_kms`.
"""

from __future__ import annotations

import http.client
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from proxy.blob.kms import KmsEndpoint
from support.programs import Daemon
from support.server import free_port

REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "AKIAKMSOFTHETESTS", "a-secret-of-the-tests-only"
START_SECONDS = 60


@dataclass(slots=True)
class Moto:
    daemon: Daemon
    port: int

    @classmethod
    def start(cls, log: Path) -> Moto:
        port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        started = cls(Daemon.start(command, log), port)
        try:
            started.daemon.wait_until(started.is_ready, START_SECONDS)
        except BaseException:
            started.daemon.kill()
            raise
        return started

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            line.request("GET", "/moto-api/")
            return line.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            line.close()

    def client(self) -> Any:
        """boto3's, for what an administrator of keys does."""
        return boto3.client(
            "kms",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def new_key(self) -> str:
        """Its ARN."""
        arn: str = self.client().create_key()["KeyMetadata"]["Arn"]
        return arn

    def place(self, key_id: str, *, endpoint: str = "") -> KmsEndpoint:
        return KmsEndpoint(key_id, REGION, endpoint or self.url, ACCESS_KEY, SECRET_KEY)

    def settings(self, key_id: str, *, provider: str = "kms", endpoint: str = "") -> dict[str, str]:
        """For a server whose keys are here."""
        return {
            "WHARFAGE_KEYS_PROVIDER": provider,
            "WHARFAGE_KEYS_KEY_ID": key_id,
            "WHARFAGE_KEYS_ENDPOINT": endpoint or self.url,
            "WHARFAGE_KEYS_KMS_ACCESS_KEY_ID": ACCESS_KEY,
            "WHARFAGE_KEYS_KMS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def stop(self) -> None:
        self.daemon.kill()  # it holds nothing, and takes its time to end well
