"""aiohttp's private members are as this server expects them, and no module of `proxy.http` uses another one."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

import proxy.http
from proxy.http import aiohttp_internals
from proxy.http.aiohttp_internals import BODY_ATTRIBUTES, CONNECTION_ATTRIBUTES

FOLDER = Path(proxy.http.__file__).parent
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.name != "aiohttp_internals.py")
USED_BY_FUNCTIONS = {"_request_in_progress", "_task_handler"}
OF_AIOHTTP = {"RequestHandler", "LimitedConnection", "web.Server", "web.Request"}


def slots(of: type) -> set[str]:
    return {name for each in of.__mro__ for name in getattr(each, "__slots__", ())}


PRIVATE = {name for name in slots(RequestHandler) | slots(StreamReader) if name.startswith("_")} | {"_kwargs"}


@pytest.mark.parametrize("name", sorted({*CONNECTION_ATTRIBUTES, *USED_BY_FUNCTIONS}))
def test_a_connection_of_aiohttp_has_the_attribute(name: str) -> None:
    assert name in slots(RequestHandler)


@pytest.mark.parametrize("name", sorted({*BODY_ATTRIBUTES, "_http_chunk_splits"}))
def test_a_body_of_aiohttp_has_the_attribute(name: str) -> None:
    assert name in slots(StreamReader)


def test_a_server_of_aiohttp_has_the_settings_of_its_connections() -> None:
    source = inspect.getsource(web.Server)
    assert "self._kwargs" in source
    assert "RequestHandler(self, loop=self._loop, **self._kwargs)" in source


def test_what_the_parser_could_not_read_has_a_message() -> None:
    assert aiohttp_internals.ParserError(status=400, exc=ValueError(), message="why").message == "why"


def test_a_connection_makes_its_parser_as_new_parser_does() -> None:
    source = inspect.getsource(RequestHandler.__init__)
    made = source[source.index("HttpRequestParser(") :]
    for argument in ("self,", "loop,", "read_bufsize,", "payload_exception=RequestPayloadError", "max_msg_queue_size="):
        assert argument in made
    assert HttpRequestParser.__module__ == "aiohttp._http_parser", "aiohttp runs without its compiled parser"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_uses_no_private_member_that_is_not_listed(path: Path) -> None:
    used = set(uses_of_aiohttp(ast.parse(path.read_text())))
    assert used <= {*CONNECTION_ATTRIBUTES, *BODY_ATTRIBUTES}


def test_each_listed_attribute_is_used() -> None:
    used = {name for path in FOLDER.glob("*.py") for name in uses_of_aiohttp(ast.parse(path.read_text()))}
    assert used >= {*CONNECTION_ATTRIBUTES, *BODY_ATTRIBUTES}


def uses_of_aiohttp(tree: ast.AST) -> Iterator[str]:
    """Attributes named as a private one of aiohttp's; those on `self` count in classes that derive from aiohttp's."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not {ast.unparse(base) for base in node.bases} & OF_AIOHTTP:
            yield from (name for name, on_self in privates(node) if not on_self)
        else:
            yield from (name for name, _ in privates(node))


def privates(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE:
            yield node.attr, isinstance(node.value, ast.Name) and node.value.id == "self"
