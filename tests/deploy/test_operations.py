"""docs/operations.md and alerts.yaml: every metric explained, alerts on what there is; commands of all pages exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from proxy import observe
from proxy.cli.main import main
from support.programs import ROOT

PAGE = ROOT / "docs" / "operations.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
CHART = ROOT / "deploy" / "helm" / "wharfage"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
METRICS: list[Counter | Gauge | Histogram] = list(vars(observe.Metrics(CollectorRegistry())).values())
ALWAYS = {"instance", "job", "le"}  # labels that Prometheus itself gives
NAME = re.compile(r"\bwharfage_[a-z0-9_]+")

rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def name_of(metric: Counter | Gauge | Histogram) -> str:
    return f"{metric._name}{'_total' if isinstance(metric, Counter) else ''}"


def series_of(metric: Counter | Gauge | Histogram) -> set[str]:
    """What Prometheus finds of it."""
    name = name_of(metric)
    return {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if isinstance(metric, Histogram) else {name}


LABELS = {series: set(metric._labelnames) for metric in METRICS for series in series_of(metric)}


def section(title: str) -> str:
    return PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Of the tables in it, without their heads."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines if not set("".join(cells)) <= set("-: ")][1:]


# ---- metrics and alerts --------------------------------------------------------------------------------------------


def test_every_metric_is_explained_with_its_labels_and_no_other() -> None:
    told = {cells[0].strip("`"): set(re.findall(r"`(\w+)`", cells[1])) for cells in rows(section("Metrics"))}
    assert told == {name_of(metric): set(metric._labelnames) for metric in METRICS}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_metric_that_is_named_is_there(path: Path) -> None:
    assert set(NAME.findall(path.read_text())) <= {name_of(metric) for metric in METRICS}


@rule
def test_an_alert_asks_for_series_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    asked = rule["expr"]
    named = NAME.findall(asked)
    assert named or "up{" in asked
    assert set(named) <= LABELS.keys()
    known = set().union(*(LABELS[name] for name in named)) | ALWAYS
    for name, matchers in re.findall(r"\b(wharfage_\w+)\{([^}]*)\}", asked):
        assert set(re.findall(r"(\w+)\s*=", matchers)) <= LABELS[name]
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", asked) for label in group.split(",")}
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert grouped | shown <= known


@rule
def test_an_alert_says_how_urgent_it_is_and_what_happened(rule: dict[str, Any]) -> None:
    assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert asked_in_pairs(rule["expr"])


def asked_in_pairs(text: str) -> bool:
    """Every bracket is closed by its own kind."""
    opened: list[str] = []
    for letter in re.sub(r'"[^"]*"', "", text):
        if letter in "([{":
            opened.append(letter)
        elif letter in ")]}" and (not opened or opened.pop() + letter not in ("()", "[]", "{}")):
            return False
    return not opened


def test_the_page_tells_what_each_alert_means_in_the_rules_order() -> None:
    assert [cells[0] for cells in rows(section("Alerts"))] == [rule["alert"] for rule in RULES]


# ---- commands ------------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """Every `wharfage …` that the pages show, in blocks or in a line, without what is left to the reader."""
    found = set()
    for path in PAGES:
        text = path.read_text()
        inline = re.findall(r"`((?:\.venv/bin/)?wharfage [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        shown = [
            line
            for block in blocks
            for line in re.findall(r"(?:^|&& |exec wharfage |bin/)(wharfage [a-z].*)", block, re.M)
        ]
        found |= {line.partition(" | ")[0].partition("  #")[0].removeprefix(".venv/bin/") for line in [*inline, *shown]}
    return sorted(line for line in found if "…" not in line)


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_shown_is_one_that_there_is(line: str) -> None:
    """Sub-command and flags parse; nothing runs."""
    parse(shlex.split(line)[1:])


def parse(words: list[str]) -> None:
    command: click.Command = main
    while isinstance(command, click.Group):
        assert words, "a group is no command"
        command = command.commands[words.pop(0)]
    if any(word.startswith("-") for word in words) or not [each for each in command.params if each.required]:
        command.make_context("wharfage", words)
