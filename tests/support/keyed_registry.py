"""A whole registry over a KMS that refuses on command, asked through its real doors."""

from __future__ import annotations

import json
from typing import Any

from support.fake_kms import FakeKms
from support.memory_connection import Answer, MemoryConnection
from support.registry_client import raw_request, written
from support.sigv4_signer import Credentials, Scope, signed
from support.whole_registry import WholeRegistry

OWN = "arn:aws:kms:us-east-1:123456789012:key/own"
REPOSITORY = "own/app"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class KeyedRegistry:
    """A whole registry with its KMS, asked as an administrator."""

    def __init__(self, registry: WholeRegistry, kms: FakeKms, clock: Clock, who: Credentials) -> None:
        self.whole = registry
        self.kms = kms
        self.clock = clock
        self._who = who
        self._line = MemoryConnection(registry.server)

    async def ask(self, operation: str, **parameters: Any) -> Answer:
        lines, body = written("ecr", operation, parameters)
        sent = signed("POST", "/", lines, body, self._who, Scope("ecr"))
        answer = await self._line.ask(raw_request("POST", "/", sent, body))
        assert answer is not None
        return answer

    async def create(self, name: str = REPOSITORY, kind: str = "KMS", key: str = "") -> Answer:
        configuration = {"encryptionType": kind, **({"kmsKey": key} if key else {})}
        return await self.ask("CreateRepository", repositoryName=name, encryptionConfiguration=configuration)

    async def close(self) -> None:
        await self._line.close()


def said(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.body)
    return found


def encryption_in(answer: Answer) -> dict[str, str]:
    assert answer.status == 200, answer.body
    found: dict[str, str] = said(answer)["repository"]["encryptionConfiguration"]
    return found
