"""Whether the tests of the evaluator would notice: each mutant of proxy/auth/policy and access, in its own process.

`make mutants`, or `python tests/mutation/run.py [module …]` for a few (`decision conditions`). Outside CI: minutes.

A mutant is first asked the whole case table and QUESTIONS that were drawn and judged once by the twin; most die at
once. What is left runs the unit tests of the room, too. What lives then must stand in `equivalent.toml` with the reason
why nobody can tell; an entry that no longer names a living mutant is reported, so that the list stays true.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pytest  # noqa: E402  # below the path that finds the rest
from fakes.naive_policy import judge  # noqa: E402
from fakes.policy_cases import ALLOWED, asked, message  # noqa: E402
from fakes.policy_pairs import pairs  # noqa: E402
from mutation.mutants import Mutant, mutants  # noqa: E402

AUTH = ROOT / "proxy" / "auth"
MUTATED = [*sorted((AUTH / "policy").glob("[!_]*.py")), AUTH / "access.py"]
TABLES = ROOT / "tests" / "unit" / "auth" / "policy"
QUESTIONS = 6000
SECONDS = 60  # for one mutant: an endless loop is a death, too
KILLED, SURVIVED, ENDLESS = "killed by a question", "survived", "ran without end"
BY_UNIT = "killed by a unit test"

Expectation = Callable[[Any], bool]


def main(names: Sequence[str]) -> int:
    files = [path for path in MUTATED if not names or path.stem in names]
    expected = list(expectations())
    first = files[0]
    unchanged = Mutant(first.stem, 1, "", "", compile(first.read_text(), str(first), "exec"))
    if in_a_process(unchanged, lambda: holds(expected) and unit_tests_pass(first.stem)) != SURVIVED:
        raise SystemExit("the evaluator as it is does not hold: no use in changing it")
    with (Path(__file__).parent / "equivalent.toml").open("rb") as listed:
        known = {(each["module"], each["line"], each["change"]) for each in tomllib.load(listed).get("mutant", [])}
    seen: Counter[str] = Counter()
    living: list[Mutant] = []
    for path in files:
        here: Counter[str] = Counter()
        for mutant in mutants(path.stem, path.read_text(), str(path)):
            fate = in_a_process(mutant, partial(holds, expected))
            if fate == SURVIVED:
                fate = in_a_process(mutant, partial(unit_tests_pass, path.stem))
                fate = BY_UNIT if fate == KILLED else fate
            here[fate] += 1
            if fate == SURVIVED:
                living.append(mutant)
                if mutant.key not in known:
                    say(f"  {mutant.module}.py:{mutant.line}: {mutant.change}\n      {mutant.text}")
        say(f"{path.stem}: {sum(here.values())} mutants: {dict(here)}")
        seen += here
    unexplained = [each for each in living if each.key not in known]
    mutated = {path.stem for path in files}
    stale = {key for key in known if key[0] in mutated} - {each.key for each in living}
    say(f"all: {sum(seen.values())} mutants: {dict(seen)}; {len(unexplained)} of the living unexplained")
    for key in sorted(stale):
        say(f"equivalent.toml names one that does not live: {key}")
    return 1 if unexplained or stale else 0


def expectations() -> Iterator[tuple[Any, Expectation]]:
    """(what to ask, what the answer must be): the case table, then the twin's."""
    for table in (load(path) for path in sorted(TABLES.glob("test_case_table_*.py"))):
        for case in getattr(table, "CASES", None) or [table.case_of(line) for line in table.LINES]:
            yield asked(case), same_as_case(case)
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


def holds(expected: Sequence[tuple[Any, Expectation]]) -> bool:
    decide = importlib.import_module("proxy.auth.policy.decision").decide
    return all(expectation(decide(*question)) for question, expectation in expected)


def unit_tests_pass(module: str) -> bool:
    """The room's tests, those of the module itself first; tables and pairs have been asked, and fuzzing takes long."""
    asked_already = ("test_case_table_", "test_policy_twin.", "test_document_fuzz")
    files = [path for path in TABLES.glob("test_*.py") if not path.name.startswith(asked_already)]
    files.append(TABLES.parent / "test_access.py")
    files.sort(key=lambda path: ("twin" in path.stem, path.stem))
    for name in [name for name in sys.modules if name.startswith("fakes.")]:
        del sys.modules[name]
    flags = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "--no-header", "--policy-seed=mutants", "--policy-pairs=3000"]
    own = [path for path in files if module in path.stem]  # by themselves: most are killed by them
    rest = [path for path in files if path not in own]
    return all(pytest.main([*flags, *map(str, each)]) == 0 for each in (own, rest) if each)


def in_a_process(mutant: Mutant, check: Callable[[], bool]) -> str:
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        signal.alarm(SECONDS)
        alive = False
        try:
            for name in [name for name in sys.modules if name.startswith(("proxy.auth.policy", "proxy.auth.access"))]:
                del sys.modules[name]
            sys.meta_path.insert(0, Finder(mutant))
            alive = check()
        finally:
            os._exit(0 if alive else 1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return ENDLESS if os.WTERMSIG(status) == signal.SIGALRM else KILLED
    return SURVIVED if os.WEXITSTATUS(status) == 0 else KILLED


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
