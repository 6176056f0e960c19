"""The bench of large registries works: filled, migrated, served and asked, with some hundred rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_size import FEW, FEWER, run

from harness import postgresql
from proxy.ecr.routes import ROUTES

pytestmark = [pytest.mark.needs("aws"), pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs(postgresql.PROGRAM))])
def test_each_question_is_answered_by_a_small_and_a_large_registry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Lists are as long as they were filled, pushes are pulled, and the aws command walks to the end."""
    figures = run(kind, tmp_path, {"small": FEWER, "full": FEW}, 1, in_a_row=1)
    assert {len(each.small) for each in figures} == {len(each.full) for each in figures} == {1}
    assert {each.name for each in figures} >= ROUTES.keys()
    printed = capsys.readouterr().out
    assert f"{kind}: migration" in printed
    assert f"aws ecr describe-images of {FEW.deep} images" in printed
