"""The kind of an upstream, by its URL."""

from __future__ import annotations

import pytest

from proxy.awsmodel import models
from proxy.model.upstreams import KINDS, kind_of


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "ecr"),
        ("public.ecr.aws", "ecr-public"),
        ("quay.io", "quay"),
        ("registry.k8s.io", "k8s"),
        ("registry-1.docker.io", "docker-hub"),
        ("ghcr.io", "github-container-registry"),
        ("mine.azurecr.io", "azure-container-registry"),
        ("registry.gitlab.com", "gitlab-container-registry"),
        ("cgr.dev", "chainguard"),
        ("docker.io", ""),
        ("registry.gitlab.com.evil.example", ""),
        ("https://quay.io", ""),
        ("127.0.0.1", ""),
        ("quay.io\n", ""),
    ],
)
def test_the_kind_follows_from_the_whole_host(url: str, kind: str) -> None:
    assert kind_of(url) == kind


def test_every_kind_of_the_model_is_known() -> None:
    assert set(KINDS) == set(models.shape("ecr", "UpstreamRegistry")["enum"])
