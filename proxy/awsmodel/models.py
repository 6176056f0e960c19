"""botocore's service descriptions as they lie in its data files, each read once, when it is first asked for.

`overlay/SERVICE.json` adds what a newer botocore has and the installed one has not: operations, shapes, members and
values of enumerations, as the newer model spells them. An overlay whose operations are all installed is not read any
further: the installed model then counts alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

VERSIONS = {
    "ecr": "2015-09-21",
    "events": "2015-10-07",
    "iam": "2010-05-08",
    "secretsmanager": "2017-10-17",
    "sts": "2011-06-15",
}

OVERLAYS = Path(__file__).parent / "overlay"

Shape = Mapping[str, Any]


@cache
def service(name: str) -> Mapping[str, Any]:
    """The whole description: `metadata`, `operations`, `shapes`. `name` is a key of `VERSIONS`."""
    from botocore.loaders import Loader

    model: Mapping[str, Any] = Loader().load_service_model(name, "service-2", VERSIONS[name])
    file = OVERLAYS / f"{name}.json"
    return merged(model, json.loads(file.read_text())) if file.exists() else model


def merged(model: Mapping[str, Any], overlay: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model with what the overlay adds."""
    if overlay["operations"].keys() <= model["operations"].keys():
        return model
    shapes = dict(model["shapes"])
    for name, added in overlay["shapes"].items():
        shapes[name] = _widened(shapes[name], added) if name in shapes else added
    return {**model, "operations": {**model["operations"], **overlay["operations"]}, "shapes": shapes}


def _widened(shape: Shape, added: Shape) -> Shape:
    """A shape that is there, with members or values that it lacks."""
    found = dict(shape)
    if "members" in added:
        found["members"] = {**added["members"], **shape["members"]}
    if "enum" in added:
        found["enum"] = list(dict.fromkeys((*shape["enum"], *added["enum"])))
    return found


def operations(name: str) -> frozenset[str]:
    """Every operation the installed model has."""
    return frozenset(service(name)["operations"])


def shape(name: str, of: str) -> Shape:
    found: Shape = service(name)["shapes"][of]
    return found
