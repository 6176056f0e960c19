"""What a newer botocore has is added to the installed model, and only while that lacks it."""

from __future__ import annotations

import json
from typing import Any

from proxy.awsmodel import models
from proxy.awsmodel.validation import validate

OVERLAY: dict[str, Any] = json.loads((models.OVERLAYS / "ecr.json").read_text())
RULE = {"destinations": [{"region": "eu-west-1", "registryId": "123456789012"}], "deleteReplication": {"enabled": True}}


def test_a_member_that_only_the_newer_model_has_is_taken() -> None:
    validate("PutReplicationConfiguration", {"replicationConfiguration": {"rules": [RULE]}})
    assert "IMAGE_SIZE_EXCEEDED" in models.shape("ecr", "ScanStatus")["enum"]
    assert OVERLAY["operations"].keys() <= models.operations("ecr")


def test_what_the_installed_model_says_stays_as_it_is() -> None:
    kept = {"type": "structure", "members": {"a": {"shape": "Old"}}}
    model = {
        "operations": {},
        "shapes": {"ReplicationRule": kept, "ScanStatus": {"type": "string", "enum": ["B", "A"]}},
    }
    added = {
        "operations": {"New": {}},
        "shapes": {
            "ReplicationRule": {"members": {"a": {"shape": "Other"}, "b": {"shape": "New"}}},
            "ScanStatus": {"enum": ["A", "C"]},
        },
    }
    shapes = models.merged(model, added)["shapes"]
    assert shapes["ReplicationRule"]["members"] == {"a": {"shape": "Old"}, "b": {"shape": "New"}}
    assert shapes["ScanStatus"]["enum"] == ["B", "A", "C"]


def test_an_overlay_whose_operations_are_installed_adds_nothing() -> None:
    model = {"operations": OVERLAY["operations"], "shapes": {}}
    assert models.merged(model, OVERLAY) is model
