"""IAM of one account as its rows answer it, every answer held against the model (see `response_shapes`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from support import response_shapes


def check(operation: str, answer: Mapping[str, Any]) -> None:
    """AssertionError where `answer` is not what a client of `operation` may rely on."""
    response_shapes.check("iam", operation, answer)


class Asked:
    """IAM of one account as its rows answer it, every answer checked."""

    def __init__(self, metadata: Metadata, account: str) -> None:
        self.metadata = metadata
        self.account = account

    async def __call__(self, operation: str, **parameters: Any) -> dict[str, Any]:
        answer = await self.metadata.iam(self.account, operation, parameters)
        check(operation, answer)
        return answer

    async def refused(self, operation: str, **parameters: Any) -> tuple[str, str]:
        """Code and text of the Failure."""
        try:
            answer = await self.metadata.iam(self.account, operation, parameters)
        except Failure as failure:
            return failure.code.value, failure.message
        raise AssertionError(f"{operation} answered {answer}")

    async def paged(
        self, operation: str, of: Callable[[Mapping[str, Any]], list[Any]], **parameters: Any
    ) -> list[list[Any]]:
        """The pages of a list, each as `of` picks it."""
        pages: list[list[Any]] = []
        more: dict[str, Any] = {}
        while True:
            answer = await self(operation, **parameters, **more)
            pages.append(of(answer))
            if not answer["IsTruncated"]:
                return pages
            more = {"Marker": answer["Marker"]}
