"""The evaluator of lifecycle policies, written anew from the guide's sentences, with sets and no care for speed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from proxy.model.lifecycle.evaluation import Image, ImageStatus

DAY = 86_400


def naive_marks(text: str, images: Sequence[Image], now: float) -> dict[int, tuple[int, str]]:
    """Priority and action of each image that is marked, by its id."""
    rules = sorted(json.loads(text)["rules"], key=lambda rule: int(rule["rulePriority"]))
    by_id = {image.image_id: image for image in images}
    seen: set[int] = set()
    chosen: dict[int, tuple[int, str]] = {}
    for rule in rules:
        selected = [image for image in images if image.subject not in by_id and _selects(rule["selection"], image)]
        for image in _beyond(rule["selection"], selected, now):
            if image.image_id not in seen:
                chosen[image.image_id] = rule["rulePriority"], rule["action"]["type"]
        seen |= {image.image_id for image in selected}
    while True:  # what an index holds stays, until nothing changes any more
        held = [
            key for key in chosen if not all(_goes(by_id[parent], chosen[key], chosen) for parent in _of(by_id, key))
        ]
        if not held:
            break
        for key in held:
            del chosen[key]
    while True:
        following = {
            image.image_id: chosen[image.subject]
            for image in images
            if image.subject in chosen and image.image_id not in chosen
            if not (chosen[image.subject][1] == "transition" and image.status is ImageStatus.ARCHIVED)
        }
        if not following:
            return chosen
        chosen |= following


def _of(by_id: dict[int, Image], key: int) -> Sequence[int]:
    return by_id[key].parents


def _goes(parent: Image, wanted: tuple[int, str], chosen: dict[int, tuple[int, str]]) -> bool:
    if wanted[1] == "expire":
        return chosen.get(parent.image_id, (0, ""))[1] == "expire"
    return parent.image_id in chosen or parent.status is ImageStatus.ARCHIVED


def _selects(selection: dict[str, Any], image: Image) -> bool:
    wanted = ImageStatus.ARCHIVED if selection.get("storageClass") == "archive" else ImageStatus.ACTIVE
    if image.status is not wanted:
        return False
    if selection["tagStatus"] == "untagged":
        return not image.tags
    patterns = [re.escape(pattern).replace(r"\*", ".*") for pattern in selection.get("tagPatternList", ())]
    patterns += [re.escape(prefix) + ".*" for prefix in selection.get("tagPrefixList", ())]
    return all(any(re.fullmatch(pattern, tag) for tag in image.tags) for pattern in patterns)


def _beyond(selection: dict[str, Any], selected: Sequence[Image], now: float) -> Sequence[Image]:
    number = selection["countNumber"]
    if selection["countType"] == "imageCountMoreThan":
        return sorted(selected, key=lambda image: (_pushed(image), image.image_id), reverse=True)[number:]
    return [image for image in selected if now - _reference(selection["countType"], image) > number * DAY]


def _pushed(image: Image) -> float:
    return image.pushed_at if image.activated_at is None else image.activated_at


def _reference(count_type: str, image: Image) -> float:
    if count_type == "sinceImagePulled" and image.last_pulled_at is not None:
        return max(image.last_pulled_at, _pushed(image))
    if count_type == "sinceImageTransitioned":
        assert image.archived_at is not None
        return image.archived_at
    return _pushed(image)
