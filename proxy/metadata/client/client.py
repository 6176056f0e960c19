"""The metadata service's operations as methods, derived from the table of operations. Holds no cache.

Each operation becomes a method with the parameters of its port and the answer that its function is annotated with:

    blob = await MetadataClient.connect("unix:/run/m.sock").blob(account, repository, digest)

A worker makes one client (`app.metadata`) and wraps it in `cache.CachedMetadata`; commands use it bare. Must not know
what any operation means.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, get_type_hints

from proxy.metadata import wire
from proxy.metadata.client.addresses import Address
from proxy.metadata.client.endpoints import CONNECTIONS, PATIENCE_SECONDS, EndpointPool
from proxy.metadata.contract import Metadata
from proxy.metadata.operations import INTERNAL, Operation
from proxy.model.errors import Code, Failure
from proxy.model.open_objects import OpenObjects


class MetadataClient(Metadata, OpenObjects):
    """`contract.Metadata` and `model.open_objects.OpenObjects` over the wire; `_derive` makes their methods."""

    def __init__(self, endpoints: EndpointPool) -> None:
        self.endpoints = endpoints
        self._call = endpoints.call
        self.now = endpoints.now  # type: ignore[method-assign]  # the pool's own, without a call in between
        self.follow = endpoints.follow
        self.close = endpoints.close  # type: ignore[method-assign]  # as above

    @classmethod
    def connect(
        cls,
        addresses: str | Sequence[Address],
        *,
        secret: str | None = None,
        connections: int = CONNECTIONS,
        timeout: float = 30.0,
        patience: float = PATIENCE_SECONDS,
        first: int = 0,
    ) -> MetadataClient:
        """A client of one service, or of several. Call it in a running loop; connections are made when needed.

        `addresses` is `unix:<path>` or `http(s)://host:port`, or several separated by commas. The one at `first` is
        called until it fails. `timeout` and `patience` are seconds, as `endpoints` describes."""
        return cls(
            EndpointPool(
                addresses, secret=secret, connections=connections, timeout=timeout, patience=patience, first=first
            )
        )

    async def call(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return await self._public("", account, operation, parameters)

    async def iam(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return await self._public("iam.", account, operation, parameters)

    async def events(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return await self._public("events.", account, operation, parameters)

    async def warnings(self) -> Sequence[str]:
        found: Sequence[str] = await self._call(wire.WARNINGS, Sequence[str], {})
        return found

    async def _public(self, prefix: str, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        if not operation.isascii() or not operation.isalnum() or not operation[0].isupper():
            raise Failure(
                Code.UNKNOWN_OPERATION, f"Operation {operation[:128]!r} is not supported by this registry"
            )  # names in lower case or with dots are internal operations
        asked = {"account": account, "parameters": parameters}
        answer: dict[str, Any] = await self._call(prefix + operation, dict[str, Any], asked)
        return answer


def _derive(name: str, operation: Operation) -> Callable[..., Awaitable[Any]]:
    """The client's method for one operation."""
    signature = inspect.signature(vars(operation.port)[name])
    parameters = list(signature.parameters.values())[1:]
    positional = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    answer = get_type_hints(operation.run)["return"]
    nonce = operation.nonce
    bypass = operation.caching.bypass if operation.caching else None

    def method(self: MetadataClient, *given: Any, **named: Any) -> Awaitable[Any]:
        if len(given) > len(positional):
            raise TypeError(f"{name} takes {len(positional)} positional arguments")
        asked = {**defaults, **dict(zip(positional, given, strict=False)), **named}
        if bypass is not None:
            del asked[bypass]
        if nonce is not None:
            asked[nonce] = secrets.token_hex(16)
        return self._call(name, answer, asked)

    method.__name__ = name
    method.__qualname__ = f"{MetadataClient.__name__}.{name}"
    method.__signature__ = signature  # type: ignore[attr-defined]  # what inspect.signature shows
    return method


for _name, _operation in INTERNAL.items():
    setattr(MetadataClient, _name, _derive(_name, _operation))
