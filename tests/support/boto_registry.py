"""A whole registry that boto3 itself asks, over a KMS, a store and rows that fail on command.

`ask` sends the parameters just as they are given, whatever the model says of them, and hands over what botocore made
of the answer beside the answer's own JSON. `SMALL` are quotas that a test reaches in a few calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import Loader

from proxy.awsmodel import models
from proxy.blob.kms_keys import KmsKeys
from proxy.model.quotas import Quotas
from support.fake_kms import FakeKms, fake_kms
from support.faulty import Faults
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

KMS_KEY = "arn:aws:kms:us-east-1:123456789012:key/own"
CACHE_SECONDS = 300.0
SMALL = Quotas(
    repositories=3,
    tags=1,
    layer_part_min=4,
    layer_part_max=16,
    layer_part=8,
    layer_bytes=32,
    pull_time_exclusions=1,
    creation_templates=1,
    pull_through_rules=2,
    replication_backfills=1,
)


class _Models(Loader):  # type: ignore[misc]  # botocore has no types
    """botocore's, with the operations that `proxy.awsmodel` adds to the installed one."""

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        if (service_name, type_name) == ("ecr", "service-2"):
            return models.service("ecr")
        return super().load_service_model(service_name, type_name, api_version)


_core = botocore.session.get_session()
_core.register_component("data_loader", _Models())
_session = boto3.session.Session(botocore_session=_core)  # it keeps the API models, which take 0.1 s to read


class Clock:
    """Of the keys that are kept open."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Asked:
    """`error`: what botocore raised, None for a success; `said`: the body's JSON."""

    error: ClientError | None
    said: Mapping[str, Any]

    @property
    def name(self) -> str:
        return "" if self.error is None else type(self.error).__name__


class BotoRegistry:
    """`rows` and `objects` are the faults of metadata and store."""

    def __init__(self, whole: WholeRegistry, kms: FakeKms, clock: Clock, rows: Faults, objects: Faults) -> None:
        self.whole = whole
        self.kms = kms
        self.rows = rows
        self.objects = objects
        self._clock = clock
        self._clients: dict[tuple[str, str], Any] = {}
        self._key: tuple[str, str] | None = None
        self._body = b""
        self._said: Mapping[str, Any] = {}

    async def ask(self, operation: str, parameters: Mapping[str, Any], who: tuple[str, str] | None = None) -> Asked:
        """As the administrator, unless `who` is another's key."""
        key = who or await self._administrator()
        client = await asyncio.to_thread(self._client, key)
        self._body, self._said = json.dumps(parameters).encode(), {}
        error: ClientError | None = None
        call = getattr(client, _METHODS[operation])
        try:
            await asyncio.to_thread(call)
        except ClientError as raised:
            error = raised
        return Asked(error, self._said)

    async def do(self, operation: str, **parameters: Any) -> Mapping[str, Any]:
        """What is to succeed."""
        asked = await self.ask(operation, parameters)
        assert asked.error is None, asked.error
        return asked.said

    def age_keys(self) -> None:
        """No data key is kept open any more."""
        self._clock.now += CACHE_SECONDS + 1

    async def _administrator(self) -> tuple[str, str]:
        if self._key is None:
            self._key = await self.whole.give_key(ACCOUNT, "administrator")
        return self._key

    def _client(self, key: tuple[str, str]) -> Any:
        if key not in self._clients:
            client = _session.client(
                "ecr",
                endpoint_url=self.whole.url,
                region_name=REGION,
                aws_access_key_id=key[0],
                aws_secret_access_key=key[1],
                config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
            )
            client.meta.events.register("before-call.ecr", self._written)
            client.meta.events.register("before-parse.ecr", self._read)
            self._clients[key] = client
        return self._clients[key]

    def _written(self, params: dict[str, Any], **_: Any) -> None:
        params["body"] = self._body

    def _read(self, response_dict: Mapping[str, Any], **_: Any) -> None:
        self._said = json.loads(response_dict["body"])

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


_METHODS: Mapping[str, str] = {
    operation: method
    for method, operation in _session.client(
        "ecr", region_name=REGION, aws_access_key_id="none", aws_secret_access_key="none"
    ).meta.method_to_api_mapping.items()
}


@contextlib.asynccontextmanager
async def boto_registry(folder: Path, quotas: Quotas = SMALL) -> AsyncIterator[BotoRegistry]:
    clock, rows, objects = Clock(), Faults(), Faults()
    async with fake_kms() as door:
        door.named |= {KMS_KEY: KMS_KEY}
        kms = KmsKeys(door.kms(retry_seconds=0.5), "probe", clock=clock, cache_seconds=CACHE_SECONDS)
        async with whole_registry(
            folder, kms=kms, quotas=quotas, wrap_metadata=rows.wrap, wrap_store=objects.wrap
        ) as whole:
            registry = BotoRegistry(whole, door, clock, rows, objects)
            yield registry
            await asyncio.to_thread(registry.close)
        await kms.close()
