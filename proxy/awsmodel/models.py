"""botocore's service descriptions as they lie in its data files, each read once, when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

VERSIONS = {
    "ecr": "2015-09-21",
    "events": "2015-10-07",
    "iam": "2010-05-08",
    "secretsmanager": "2017-10-17",
    "sts": "2011-06-15",
}

Shape = Mapping[str, Any]


@cache
def service(name: str) -> Mapping[str, Any]:
    """The whole description: `metadata`, `operations`, `shapes`. `name` is a key of `VERSIONS`."""
    from botocore.loaders import Loader

    model: Mapping[str, Any] = Loader().load_service_model(name, "service-2", VERSIONS[name])
    return model


def operations(name: str) -> frozenset[str]:
    """Every operation the installed model has."""
    return frozenset(service(name)["operations"])


def shape(name: str, of: str) -> Shape:
    found: Shape = service(name)["shapes"][of]
    return found
