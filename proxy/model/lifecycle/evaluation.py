"""What a lifecycle policy does to the images of a repository: images in, in any order; marks out, with the clock given.

    evaluation = Evaluation(rules, now=…)
    for image in images:
        evaluation.add(image)
    for mark in evaluation.marks(): …

All rules are evaluated as if none had been applied, then the first one by priority that selects an image decides about
it, and no other one does. An image waits for every index that lists it. A referrer whose subject is in the repository
is selected by no rule: it goes where its subject goes. Holds some 300 bytes an image that a rule selects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from proxy.model.lifecycle.policy import DAY, CountType, LifecycleAction, Rule


class ImageStatus(StrEnum):
    """As in botocore's `ecr` model."""

    ACTIVE = "ACTIVE"
    ARCHIVED = "ARCHIVED"
    ACTIVATING = "ACTIVATING"


@dataclass(frozen=True, slots=True)
class Image:
    """What a policy can know of an image. Times are epoch seconds; `parents` are the ids of the indexes that list it,
    `subject` the id of the image that it refers to, where that is in the repository. A parent's id is greater than
    those of its children, which were there before it."""

    image_id: int
    digest: str
    pushed_at: float
    tags: tuple[str, ...] = ()
    last_pulled_at: float | None = None
    archived_at: float | None = None
    activated_at: float | None = None
    status: ImageStatus = ImageStatus.ACTIVE
    parents: tuple[int, ...] = ()
    subject: int | None = None

    @property
    def since(self) -> float:
        """When its age began: a restored image counts as pushed then."""
        return self.pushed_at if self.activated_at is None else self.activated_at


@dataclass(frozen=True, slots=True)
class Mark:
    """An image that a policy expires or archives: by the rule of that priority, or because its subject goes. `since` is
    as it was, for whoever looks again."""

    image_id: int
    digest: str
    since: float
    priority: int
    action: LifecycleAction
    subject: int | None = None


def deciding_rule(rules: Sequence[Rule], image: Image, *, index_aware: bool = False) -> Rule | None:
    """The only rule that can mark the image."""
    return next((rules[each] for each in _selecting(rules, image, index_aware)), None)


def is_old(rule: Rule, image: Image, now: float) -> bool:
    """Whether the image is older than the rule says, of a rule that is about ages."""
    if rule.count_type is CountType.TRANSITIONED:
        since = image.archived_at if image.archived_at is not None else image.since
    elif rule.count_type is CountType.PULLED and image.last_pulled_at is not None:
        since = max(image.last_pulled_at, image.since)  # restored and not pulled since: from the restoration
    else:
        since = image.since
    return now - since > rule.number * DAY


def _selecting(rules: Sequence[Rule], image: Image, index_aware: bool) -> tuple[int, ...]:
    if image.subject is not None or image.status is ImageStatus.ACTIVATING:
        return ()
    if index_aware and image.parents and not image.tags:
        return ()  # counted with its index
    archived = image.status is ImageStatus.ARCHIVED
    return tuple(number for number, rule in enumerate(rules) if rule.archived is archived and rule.selects(image.tags))


@dataclass(slots=True)
class _Selected:
    image_id: int
    digest: str
    since: float
    rules: tuple[int, ...]
    old: bool
    parents: tuple[int, ...]


class LifecycleEvaluation:
    """`rules` by priority, as `policy.read_policy` gives them; `now` is epoch seconds. `index_aware`: what only an
    index names is no untagged image of its own, beyond ECR."""

    def __init__(self, rules: Sequence[Rule], *, now: float, index_aware: bool = False) -> None:
        self._rules = rules
        self._now = now
        self._index_aware = index_aware
        self._selected: list[_Selected] = []
        self._archived: set[int] = set()
        self._referrers: dict[int, tuple[int, str, float]] = {}  # subject, digest, since

    def add(self, image: Image) -> None:
        if image.status is ImageStatus.ARCHIVED:
            self._archived.add(image.image_id)
        if image.subject is not None:
            self._referrers[image.image_id] = image.subject, image.digest, image.since
            return
        selecting = _selecting(self._rules, image, self._index_aware)
        if selecting:
            rule = self._rules[selecting[0]]
            old = rule.count_type is not CountType.IMAGE_COUNT and is_old(rule, image, self._now)
            self._selected.append(_Selected(image.image_id, image.digest, image.since, selecting, old, image.parents))

    def add_all(self, images: Iterable[Image]) -> None:
        for image in images:
            self.add(image)

    def marks(self) -> list[Mark]:
        """The oldest first, but each index before what it lists, and each subject before its referrers."""
        marked, depth = self._after_parents(self._by_rules())
        self._follow(marked, depth)
        return sorted(marked.values(), key=lambda mark: (depth[mark.image_id], mark.since, mark.image_id))

    def _by_rules(self) -> dict[int, _Selected]:
        """What the rules mark, by image id."""
        found: dict[int, _Selected] = {}
        counts = [0] * len(self._rules)
        self._selected.sort(key=lambda each: (each.since, each.image_id), reverse=True)
        for each in self._selected:  # the newest first
            for number in each.rules:
                counts[number] += 1
            first = each.rules[0]
            rule = self._rules[first]
            over = counts[first] > rule.number if rule.count_type is CountType.IMAGE_COUNT else each.old
            if over:
                found[each.image_id] = each
        return found

    def _after_parents(self, found: dict[int, _Selected]) -> tuple[dict[int, Mark], dict[int, int]]:
        """Without what an index still needs; and how many indexes must go before each."""
        marked: dict[int, Mark] = {}
        depth: dict[int, int] = {}
        for image_id in sorted(found, reverse=True):  # parents before children
            each = found[image_id]
            rule = self._rules[each.rules[0]]
            if all(self._goes(parent, rule.action, marked) for parent in each.parents):
                marked[image_id] = Mark(image_id, each.digest, each.since, rule.priority, rule.action)
                depth[image_id] = 1 + max((depth.get(parent, 0) for parent in each.parents), default=0)
        return marked, depth

    def _goes(self, parent: int, action: LifecycleAction, marked: dict[int, Mark]) -> bool:
        """An index that is archived still needs its images, but may have them archived."""
        mark = marked.get(parent)
        if action is LifecycleAction.EXPIRE:
            return mark is not None and mark.action is LifecycleAction.EXPIRE
        return mark is not None or parent in self._archived

    def _follow(self, marked: dict[int, Mark], depth: dict[int, int]) -> None:
        """Mark referrers, and referrers of referrers, of what is marked."""
        for image_id in self._referrers:
            chain = []
            while image_id in self._referrers and image_id not in depth:
                chain.append(image_id)
                image_id = self._referrers[image_id][0]  # up to the subject that is no referrer
            mark = marked.get(image_id)
            level = depth.get(image_id, 0)
            for referrer in reversed(chain):
                level += 1
                depth[referrer] = level
                if mark is None or (mark.action is LifecycleAction.TRANSITION and referrer in self._archived):
                    continue
                subject, digest, since = self._referrers[referrer]
                marked[referrer] = Mark(referrer, digest, since, mark.priority, mark.action, subject)
