"""Imports point one way: scripts → callbacks, evaluation → the flat modules → keras, tensorflow."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = ("trainers", "export", "benchmarks")
MIDDLE = ("keras_bt.callbacks", "keras_bt.evaluation")


def modules(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path):
    """Names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", modules("keras_bt"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    names = set(imports(path))
    middle = path.parent.name in ("callbacks", "evaluation")
    forbidden = SCRIPTS if middle else SCRIPTS + MIDDLE
    assert not [name for name in names if within(name, forbidden)]
    assert not [name for name in names if within(name, ["absl.flags"])]


def test_keras_cv_stays_in_the_module_of_the_layers():
    users = [
        p.stem for p in modules("keras_bt") if any(within(n, ["keras_cv"]) for n in imports(p))
    ]
    assert users == ["image_layers"]


def test_flags_are_read_in_scripts_only():
    for path in modules("keras_bt"):
        assert "FLAGS" not in path.read_text()


def test_the_objective_is_written_in_keras_ops():
    for name in ("objective", "optimizer", "resnet", "schedule"):
        names = set(imports(ROOT / "keras_bt" / f"{name}.py"))
        assert not [n for n in names if within(n, ["tensorflow"])]
