"""The public API is annotated completely; `mypy` says in CI whether the annotations hold."""

import ast

import pytest
from places import ROOT

PATHS = sorted((ROOT / "keras_bt").rglob("*.py"))


def public_functions(body, within=""):
    """(name, definition) of public functions, and of public classes' methods and constructors."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            constructor = within and node.name in ("__init__", "__call__")
            if constructor or not node.name.startswith("_"):
                yield within + node.name, node


def missing(name, function):
    """What a definition leaves without an annotation."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    if "." in name and every and every[0].arg in ("self", "cls"):
        every = every[1:]
    found = [a.arg for a in every if a.annotation is None]
    # mypy knows that a constructor returns None.
    return found + (["return"] if function.returns is None and "__init__" not in name else [])


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_are_annotated(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {n: missing(n, f) for n, f in public_functions(tree.body) if missing(n, f)}
    assert not found
