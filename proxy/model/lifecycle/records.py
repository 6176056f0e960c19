"""What travels between the metadata service and those who evaluate lifecycle policies, beside images and marks."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.model.lifecycle.evaluation import ImageStatus
from proxy.model.lifecycle.policy import LifecycleAction


@dataclass(frozen=True, slots=True)
class LifecycleDue:
    """A repository whose policy is to be evaluated; `policy` is its text."""

    account: str
    repository: str
    policy: str


@dataclass(frozen=True, slots=True)
class LifecycleOutcome:
    """What became of a mark. `kept_for` is empty where it was carried out, else why it was not: "changed" since, its
    "subject" is there still, or ImageReferencedByManifestList."""

    digest: str
    tags: tuple[str, ...]
    priority: int
    action: LifecycleAction
    kept_for: str


@dataclass(frozen=True, slots=True)
class LeasedPreview:
    """A preview that the caller computes; `run` is its number, under which results are kept."""

    policy: str
    run: int


@dataclass(frozen=True, slots=True)
class PreviewResult:
    """One image that the policy would act on."""

    position: int
    digest: str
    tags: tuple[str, ...]
    pushed_at: float
    status: ImageStatus
    priority: int
    action: LifecycleAction
