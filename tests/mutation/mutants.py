"""One small wrong change at a time in a module's source: what a test that means anything must notice.

Our own, over `ast`, and small. mutmut 3 is well kept, but changes only what stands inside functions, and much of an
evaluator stands in tables beside them; it also starts pytest anew for each change, where ours asks questions that were
drawn once (`run`). A mutant is known by module, the text of its line, and what was changed there, so that the list of
those that change nothing (`equivalent.toml`) outlives edits elsewhere in the file.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.Mult: ast.Add,
}
NAMES = {"any": "all", "all": "any", "min": "max", "max": "min"}
METHODS = {"lower": "upper", "upper": "lower", "startswith": "endswith", "endswith": "startswith"}
METHODS |= {"partition": "rpartition", "append": "remove", "add": "discard"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """`number` is its place among the module's, `line` 1-based; `text` that line, stripped; `change` says what was done
    there, and the how-many-eth of its kind on a line of this text it was."""

    module: str
    number: int
    line: int
    text: str
    change: str
    code: CodeType

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.text, self.change

    @property
    def name(self) -> str:
        """For as long as the module is the same."""
        return f"{self.module} {self.number}"


def mutants(module: str, source: str, path: str) -> Iterator[Mutant]:
    """Each is compiled from the one tree, in which it stands for as long."""
    tree = ast.parse(source)
    lines = source.splitlines()
    seen: Counter[tuple[str, str]] = Counter()
    skipped = unread(tree)
    for node in [each for each in ast.walk(tree) if each not in skipped]:
        for change, other in changes(node):
            line = node.target.lineno if isinstance(node, ast.comprehension) else node.lineno  # type: ignore[attr-defined]
            text = lines[line - 1].strip()
            seen[text, change] += 1
            count = seen[text, change]
            told = change if count == 1 else f"{change} ({count})"
            replace_in(tree, node, other)
            code = compile(ast.fix_missing_locations(tree), path, "exec")
            replace_in(tree, other, node)
            yield Mutant(module, seen.total(), line, text, told, code)


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may be put in a node's place, each with a word for it."""
    match node:
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for index, operator in enumerate(ops):
                for other in COMPARISONS[type(operator)]:
                    others = [*ops[:index], other(), *ops[index + 1 :]]
                    said = f"{type(operator).__name__} to {other.__name__}"
                    yield said, ast.copy_location(ast.Compare(left, others, comparators), node)
        case ast.BoolOp(op=joined, values=values):
            other_join = ast.Or() if isinstance(joined, ast.And) else ast.And()
            yield f"{type(joined).__name__} flipped", ast.copy_location(ast.BoolOp(other_join, values), node)
            for index in range(len(values)):
                rest = [*values[:index], *values[index + 1 :]]
                shorter = rest[0] if len(rest) == 1 else ast.BoolOp(joined, rest)
                yield f"{type(joined).__name__} without part {index + 1}", ast.copy_location(shorter, node)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not dropped", operand
        case ast.BinOp(left=left, op=worked, right=right) if type(worked) in OPERATORS:
            found = OPERATORS[type(worked)]
            said = f"{type(worked).__name__} to {found.__name__}"
            yield said, ast.copy_location(ast.BinOp(left, found(), right), node)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            opposite = copy.copy(node)
            opposite.test = ast.UnaryOp(ast.Not(), test)
            yield "test negated", opposite
        case ast.comprehension(ifs=[_, *_]):
            without = copy.copy(node)
            without.ifs = []
            yield "filter dropped", without
        case ast.Constant(value=bool() as truth):
            yield f"{truth} to {not truth}", ast.copy_location(ast.Constant(not truth), node)
        case ast.Constant(value=int() as number):
            yield f"{number} to {number + 1}", ast.copy_location(ast.Constant(number + 1), node)
        case ast.Constant(value=str() as word) if word:
            yield f"{word!r} to another word", ast.copy_location(ast.Constant(f"{word}~"), node)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in NAMES:
            found_name = ast.copy_location(ast.Name(NAMES[name], ast.Load()), node)
            yield f"{name} to {NAMES[name]}", ast.copy_location(ast.Call(found_name, args, keywords), node)
        case ast.Attribute(value=value, attr=attr) if attr in METHODS:
            yield f"{attr} to {METHODS[attr]}", ast.copy_location(ast.Attribute(value, METHODS[attr], ast.Load()), node)
        case ast.Return(value=ast.expr() as told) if ast.unparse(told) != "None":
            yield "returns None", ast.copy_location(ast.Return(None), node)
        case ast.Raise() | ast.Continue() | ast.Break() | ast.AugAssign():
            yield f"{type(node).__name__} dropped", ast.copy_location(ast.Pass(), node)
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()):
            yield "call dropped", ast.copy_location(ast.Expr(ast.Constant(None)), node)


def replace_in(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
                return
            if isinstance(value, list):
                for index, each in enumerate(value):
                    if each is old:
                        value[index] = new
                        return


def unread(tree: ast.Module) -> set[ast.AST]:
    """Docstrings, annotations, imports and decorators: changing them changes nothing, or breaks all."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                first = node.body[0] if node.body else None
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    parts.append(first)
                parts += list(getattr(node, "decorator_list", []))
                parts.append(getattr(node, "returns", None))
            case ast.Expr(value=ast.Constant()):
                parts.append(node)  # a docstring of a constant
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation):
                parts.append(annotation)
            case ast.Import() | ast.ImportFrom():
                parts.append(node)
            case ast.Assign(targets=[ast.Name(id=name)]) if name in ("__slots__", "__all__"):
                parts.append(node)
        for part in parts:
            if part is not None:
                found |= set(ast.walk(part))
    return found
