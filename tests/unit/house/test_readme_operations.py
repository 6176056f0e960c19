"""README says of every operation of ECR's model whether it works here, as the door's own table has it."""

from __future__ import annotations

from harness import surface
from proxy.awsmodel.models import operations
from proxy.ecr.routes import FIXED, ROUTES


def test_readme_has_the_table_of_operations_that_the_door_serves() -> None:
    readme = surface.README.read_text()
    assert surface.filled(readme) == readme, "python tests/harness/surface.py writes it anew"


def test_what_is_served_is_in_the_model() -> None:
    assert operations("ecr") >= ROUTES.keys() >= FIXED.keys()
