"""`[lifecycle]`: how lifecycle policies are applied. Part of `settings`."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.setting import between, setting


@dataclass(frozen=True, slots=True)
class LifecycleSettings:
    interval_seconds: float = setting(3600.0, "between two evaluations of all lifecycle policies", between(0.1, 86_400))
    expire_unpulled: bool = setting(
        False, "beyond ECR: a policy may expire images by sinceImagePulled, which ECR allows for archiving only"
    )
    index_aware_counts: bool = setting(
        False, "beyond ECR: untagged images that an index lists are selected by no rule: they count with their index"
    )
