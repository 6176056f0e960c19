"""What callers are typed by, and what the service runs, are the same operations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from proxy.metadata import contract
from proxy.metadata.operations import ECR, INTERNAL, Operation
from proxy.metadata.operations.operation import operation
from proxy.model.open_objects import OpenObjects

BY_HAND = {"call", "iam", "events", "warnings", "now", "close"}
"""Of `Metadata`: ECR's, IAM's and EventBridge's operations by name, and what no operation answers."""


def described(function: Callable[..., Any], without: set[str | None]) -> dict[str, tuple[object, object]]:
    """Each parameter's type and default, and what is returned."""
    hints = get_type_hints(function)
    found = {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in without
    }
    return found | {"return": (hints["return"], inspect.Parameter.empty)}


@pytest.mark.parametrize("name", INTERNAL)
def test_an_operation_and_the_method_of_its_port_have_the_same_parameters_and_answer(name: str) -> None:
    found = INTERNAL[name]
    method = vars(found.port)[name]
    bypass = found.caching.bypass if found.caching else None
    wanted = described(method, {"self", bypass})
    run = described(found.run, {"tx", found.nonce})
    if found.prepare is not None:
        run = described(found.prepare, set()) | {"return": run["return"]}
    assert list(run.items()) == list(wanted.items())
    assert (found.nonce is None) == (found.nonce not in found.parameters)
    assert bypass is None or bypass in inspect.signature(method).parameters


def test_every_method_of_a_port_is_an_operation() -> None:
    of_metadata = {name for port in contract.Metadata.__mro__ for name in vars(port) if not name.startswith("_")}
    of_objects = {name for name in vars(OpenObjects) if not name.startswith("_")}
    assert of_metadata - BY_HAND | of_objects == INTERNAL.keys()
    assert of_metadata > BY_HAND


def test_two_operations_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="two operations are called blob"):
        operation(contract.BlobPort, name="blob")(lambda tx: None)


def test_only_writes_settle_or_may_be_lost() -> None:
    def says_so(found: Operation) -> bool:
        return found.write or not (found.settles or not found.durable or found.nonce)

    assert [name for name, found in (INTERNAL | ECR).items() if not says_so(found)] == []
