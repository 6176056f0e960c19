"""The pages of the repository: their links lead somewhere, and the files and functions that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.checkout import tracked
from support.programs import ROOT

PAGES = sorted(name for name in tracked() if name.endswith(".md"))
NAMED = re.compile(r"`((?:proxy|_speedups|deploy|tests|bench|release|docs)/[\w./-]*\w)`")
FUNCTIONS = re.compile(r"`((?:proxy|_speedups)/[\w/]+\.py)`((?:\s+(?:and\s+)?`\w+\(\)`)+)")

page = pytest.mark.parametrize("page", PAGES)


def text_of(page: str) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", text_of(str(path)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@page
def test_every_link_leads_to_a_file_and_a_heading_of_the_repository(page: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (ROOT / page).parent / file if file else ROOT / page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert not broken


# Two pages name what is gone: the one that says what moved, the one that says what was taken out.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in ("CHANGELOG.md", "docs/decisions/fewer-parts.md")]
)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    assert [name for name in NAMED.findall(text_of(page)) if not (ROOT / name).exists()] == []


@page
def test_every_function_that_a_page_names_is_defined_in_its_file(page: str) -> None:
    missing = []
    for file, names in FUNCTIONS.findall(text_of(page)):
        source = (ROOT / file).read_text()
        missing += [f"{file} {name}()" for name in re.findall(r"`(\w+)\(\)`", names) if f"def {name}(" not in source]
    assert not missing


def test_the_four_walks_of_the_architecture_page_name_functions() -> None:
    """Guards the test above against a change of the page's form."""
    assert len(FUNCTIONS.findall(text_of("docs/architecture.md"))) > 60


def test_the_readme_is_short_and_links_to_every_page_of_docs() -> None:
    readme = (ROOT / "README.md").read_text()
    lines = readme.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 160] == []
    pages = {name for name in PAGES if re.fullmatch(r"docs/[\w-]+\.md", name)}
    assert pages <= set(re.findall(r"\]\((docs/[\w-]+\.md)", readme))
