"""Whether the tests of the evaluator would notice: each mutant of proxy/auth/policy and access, in its own process.

`make mutants`, or `python tests/mutation/run.py [--jobs N] [module …]` for a few modules (`decision conditions`).
Outside CI: some ten minutes of two cores. What has been found is kept in `.mutants`: a run that was broken off goes
on where it was, for as long as neither evaluator nor tests are changed.

A mutant is first asked the whole case table, then runs its module's unit tests, and is asked QUESTIONS that were drawn
and judged once by the twin; most die at once. What is left runs all unit tests of the room. What lives then must stand
in `equivalent.toml` with the reason why nobody can tell; an entry that no longer names a living mutant is reported, so
that the list stays true.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from hashlib import sha256
from importlib.machinery import ModuleSpec
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pytest  # noqa: E402  # below the path that finds the rest
from mutation.mutants import Mutant, mutants  # noqa: E402

from support.naive_policy import judge  # noqa: E402
from support.policy_cases import ALLOWED, asked, message  # noqa: E402
from support.policy_pairs import pairs  # noqa: E402

AUTH = ROOT / "proxy" / "auth"
MUTATED = [*sorted((AUTH / "policy").glob("[!_]*.py")), AUTH / "access.py"]
TABLES = ROOT / "tests" / "unit" / "auth" / "policy"
FOUND = ROOT / ".mutants"
QUESTIONS = 6000
SECONDS = 60  # of one core for one mutant: an endless loop is a death, too
SHOWN = 200  # mutants between two lines of progress

REFUSING = ("conditions", "documents", "principals", "variables")  # whose words test_policy_faults has

Expectation = Callable[[Any], bool]
Check = Callable[[str], "Fate"]
Asked = tuple[Any, Expectation]
"""What to ask, and what the answer must be."""


class Fate(IntEnum):
    """Of a mutant; what its process ends with."""

    SURVIVED = 0
    BY_QUESTION = 1
    BY_UNIT = 2
    ENDLESS = 3


class Options:
    """The options of the room's tests, whose conftest would start whole servers."""

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        parser.addoption("--policy-pairs", type=int, default=3000)
        parser.addoption("--policy-seed", default="mutants")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1, help="how many mutants at a time")
    parser.add_argument("modules", nargs="*", help="all unless told")
    told = parser.parse_args(arguments)
    files = [path for path in MUTATED if not told.modules or path.stem in told.modules]
    check = partial(fate_of, table=list(table_asked()), drawn=list(drawn_asked()))
    gc.freeze()  # so that forks share it
    first = files[0]
    unchanged = Mutant(first.stem, 0, 1, "", "", compile(first.read_text(), str(first), "exec"))
    if next(fates([unchanged], check, 1))[1] is not Fate.SURVIVED:
        raise SystemExit("the evaluator as it is does not hold: no use in changing it")
    with (Path(__file__).parent / "equivalent.toml").open("rb") as listed:
        known = {(each["module"], each["line"], each["change"]) for each in tomllib.load(listed).get("mutant", [])}
    seen: dict[str, Counter[str]] = {path.stem: Counter() for path in files}
    living: list[Mutant] = []
    drawn = (mutant for path in files for mutant in mutants(path.stem, path.read_text(), str(path)))
    for number, (mutant, fate) in enumerate(remembered(drawn, check, told.jobs), 1):
        seen[mutant.module][fate.name] += 1
        if fate is Fate.SURVIVED:
            living.append(mutant)
            if mutant.key not in known:
                say(f"  {mutant.module}.py:{mutant.line}: {mutant.change}\n      {mutant.text}")
        if number % SHOWN == 0:
            say(f"{number} mutants, {mutant.module} at hand")
    for module, here in seen.items():
        say(f"{module}: {here.total()} mutants: {dict(here)}")
    unexplained = [each for each in living if each.key not in known]
    stale = {key for key in known if key[0] in seen} - {each.key for each in living}
    total = sum(seen.values(), Counter[str]())
    say(f"all: {total.total()} mutants: {dict(total)}; {len(unexplained)} of the living unexplained")
    for key in sorted(stale):
        say(f"equivalent.toml names one that does not live: {key}")
    return 1 if unexplained or stale else 0


def table_asked() -> Iterator[Asked]:
    for table in (load(path) for path in sorted(TABLES.glob("test_case_table_*.py"))):
        for case in getattr(table, "CASES", None) or [table.case_of(line) for line in table.LINES]:
            yield asked(case), same_as_case(case)


def drawn_asked() -> Iterator[Asked]:
    for pair in pairs("mutants", QUESTIONS):
        question = pair.caller, pair.question, pair.repository, pair.registry
        yield question, same_as_twin(judge(*question))


def same_as_case(case: Any) -> Expectation:
    said = message(case)
    return lambda decision: decision.allowed == (case.outcome == ALLOWED) and decision.message == said


def same_as_twin(verdict: Any) -> Expectation:
    def same(decision: Any) -> bool:
        if verdict.allowed or decision.allowed:
            return bool(decision.allowed == verdict.allowed and not decision.message)
        return decision.message in verdict.messages and decision.explicit == verdict.explicit

    return same


def holds(module: str, expected: Sequence[Asked]) -> bool:
    """Whether every answer is right; so it is of a module that the decision does not go through."""
    decide = importlib.import_module("proxy.auth.policy.decision").decide
    if not {f"proxy.auth.{module}", f"proxy.auth.policy.{module}"} & sys.modules.keys():
        return True
    return all(expectation(decide(*question)) for question, expectation in expected)


def unit_tests(module: str) -> tuple[list[Path], list[Path]]:
    """Those of the module itself, and the room's others; tables and pairs are asked here, and fuzzing takes long."""
    asked_here = ("test_case_table_", "test_policy_twin.", "test_document_fuzz")
    files = [path for path in TABLES.glob("test_*.py") if not path.name.startswith(asked_here)]
    files.append(TABLES.parent / "test_access.py")
    files.sort(key=lambda path: ("twin" in path.stem, path.stem))
    own = [path for path in files if module in path.stem or ("faults" in path.stem and module in REFUSING)]
    return own, [path for path in files if path not in own]


def unit_tests_pass(files: Sequence[Path]) -> bool:
    flags = ["-x", "-q", "-s", "--no-header", "--noconftest", "--tb=no", "--assert=plain"]
    flags += [
        f"-pno:{each}" for each in ("cacheprovider", "hypothesispytest", "xdist", "xdist.looponfail", "benchmark")
    ]
    return not files or pytest.main([*flags, *map(str, files)], [Options()]) == 0


def fate_of(module: str, table: Sequence[Asked], drawn: Sequence[Asked]) -> Fate:
    own, others = unit_tests(module)
    if not holds(module, table):
        return Fate.BY_QUESTION
    if not unit_tests_pass(own):
        return Fate.BY_UNIT
    if not holds(module, drawn):
        return Fate.BY_QUESTION
    return Fate.SURVIVED if unit_tests_pass(others) else Fate.BY_UNIT


def remembered(drawn: Iterable[Mutant], check: Check, jobs: int) -> Iterator[tuple[Mutant, Fate]]:
    """The fate of each: first of those that an earlier run of the same sources and tests has seen."""
    sources = b"".join(path.read_bytes() for top in (AUTH, ROOT / "tests") for path in sorted(top.rglob("*.py")))
    header = sha256(sources).hexdigest()
    lines = FOUND.read_text().splitlines() if FOUND.exists() else []
    if lines[:1] != [header]:
        lines = []
        FOUND.write_text(f"{header}\n")
    earlier = {name: Fate(int(fate)) for name, _, fate in (line.rpartition(" ") for line in lines[1:])}
    left: list[Mutant] = []
    for mutant in drawn:
        if mutant.name in earlier:
            yield mutant, earlier[mutant.name]
        else:
            left.append(mutant)
    with FOUND.open("a", buffering=1) as file:
        for mutant, fate in fates(left, check, jobs):
            file.write(f"{mutant.name} {fate:d}\n")
            yield mutant, fate


def fates(asked: Iterable[Mutant], check: Check, jobs: int) -> Iterator[tuple[Mutant, Fate]]:
    """What becomes of each, `jobs` at a time, in the order in which they end."""
    waiting, running = iter(asked), dict[int, Mutant]()
    while True:
        for mutant in islice(waiting, jobs - len(running)):
            running[begin(mutant, check)] = mutant
        if not running:
            return
        child, status = os.wait()
        ended = os.waitstatus_to_exitcode(status)
        yield running.pop(child), Fate.ENDLESS if ended < 0 else Fate(ended)


def begin(mutant: Mutant, check: Check) -> int:
    """A process in which `mutant` stands in its module's place; it ends with its fate."""
    child = os.fork()
    if child:
        return child
    fate = Fate.BY_QUESTION  # what cannot even be imported
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        for name in [name for name in sys.modules if name.startswith(("proxy.auth", "support."))]:
            del sys.modules[name]
        sys.meta_path.insert(0, Finder(mutant))
        fate = check(mutant.module)
    finally:
        os._exit(fate)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the mutant in its module's place."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in (f"proxy.auth.policy.{self._mutant.module}", f"proxy.auth.{self._mutant.module}"):
            return None
        return importlib.util.spec_from_loader(name, self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._mutant.code, module.__dict__)  # noqa: S102  # our own source, one token changed


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    began = time.monotonic()
    code = main(sys.argv[1:])
    say(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
