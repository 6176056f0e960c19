"""The bench of large registries works, with some hundred rows; and thousands of images are walked within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from fill import Size, fill
from registry_size import FEW, FEWER, run, serving, walked

from proxy.ecr.routes import ROUTES
from support import postgresql

IMAGES, PAGE = 5000, 100
BOUND = 16 * 10**6
"""Bytes, code that is loaded once and all: 5 MB are usual. A thousand images in one answer are 8 MB more, so that who
held all of these would hold 40."""

pytestmark = pytest.mark.needs("aws")


@pytest.mark.needs("dockerd")
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs(postgresql.PROGRAM))])
def test_each_question_is_answered_by_a_small_and_a_large_registry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Lists are as long as they were filled, pushes are pulled, and the aws command walks to the end."""
    figures, by_docker = run(kind, tmp_path, {"small": FEWER, "full": FEW}, 1, in_a_row=1, blocks=(1, 1), docker=1)
    assert {len(each.small) for each in figures} == {len(each.full) for each in figures} == {2}
    assert {each.name for each in figures} >= ROUTES.keys()
    printed = capsys.readouterr().out
    assert f"{kind}: migration" in printed
    assert f"aws ecr describe-images of {FEW.deep} images" in printed
    assert by_docker.keys() == {"push", "pull"}


def test_aws_describes_thousands_of_images_in_pages_and_bounded_memory(tmp_path: Path) -> None:
    """The small form of what `make bench-size` does with 100,000. That every image came is checked as it walks."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    fill(data / "metadata.db", Size(repositories=1, each=1, deep=IMAGES, tags=1))
    with serving(data, "") as server:
        _, grown = walked(server, tmp_path, IMAGES, PAGE)
    assert grown <= BOUND, f"{grown / 1e6:.0f} MB"
