"""The tables of docs/ that are made from the code are those of the code as it is."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.awsmodel.models import operations
from proxy.config import loader
from proxy.config.settings import SECTIONS
from proxy.ecr.iam.actions import ACTIONS
from proxy.ecr.routes import FIXED, ROUTES
from proxy.ecr.sts import SERVED
from support import surface


@pytest.mark.parametrize("name", surface.TABLES)
def test_a_page_has_the_table_that_the_code_makes(name: str) -> None:
    page = (surface.DOCS / surface.TABLES[name][0]).read_text()
    assert surface.filled(page, name) == page, "`make docs` writes it anew"


def test_what_is_served_is_in_the_model() -> None:
    assert operations("ecr") >= ROUTES.keys() >= FIXED.keys()
    assert operations("iam") >= ACTIONS.keys()
    assert operations("sts") >= SERVED


@pytest.mark.parametrize("section", SECTIONS)
def test_each_variable_of_the_configuration_page_sets_its_setting(section: str) -> None:
    page = (surface.DOCS / "configuration.md").read_text()
    for field in dataclasses.fields(SECTIONS[section]):
        alias = surface.ALIASES.get((section, field.name), f"{section}_{field.name}".upper())
        assert f"| `{field.name}` |" in page
        assert loader._variables()[f"WHARFAGE_{alias}"] == f"{section}.{field.name}"
