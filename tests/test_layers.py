"""The house has floors: an import points to a floor below, never up and never across."""

import ast

import pytest
from places import ROOT

# Of keras_bt, from the ground up. What stands on one floor knows nothing of its neighbors.
FLOORS = (
    ("typing",),
    ("fused",),
    (
        *("files", "messages", "objectives", "preprocessing", "randomness"),
        *("resnet", "schedule"),
    ),
    ("augmentations", "checkpoint", "data", "optimizer", "strategy", "workdir"),
    ("model", "saved_model"),
    ("evaluation", "portable", "torch_weights"),
    ("plots",),
    ("callbacks",),
)
# Of the scripts; keras_bt is below all of them.
SCRIPT_FLOORS = (("trainers.runs",), ("trainers.cli",), ("trainers", "export"), ("benchmarks",))
FACES = ("augmentations", "data", "model", "objectives", "plots", "portable", "saved_model")
FACES += ("torch_weights", "evaluation", "callbacks", "fused", "strategy")


def modules(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path, at_module_level=False):
    """Dotted names that a file imports: anywhere in it, or before any function is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def floor_of(name, floors):
    """Number of the floor that a dotted name stands on, of the longest entry that fits; or None."""
    fitting = [
        (len(entry), number)
        for number, floor in enumerate(floors)
        for entry in floor
        if within(name, entry)
    ]
    return max(fitting)[1] if fitting else None


def test_every_room_stands_on_a_floor():
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "keras_bt").iterdir()}
    rooms -= {"__init__", "__pycache__", "py.typed"}
    assert rooms == {room for floor in FLOORS for room in floor}


def test_the_listing_is_short():
    assert len({p.name for p in (ROOT / "keras_bt").iterdir()} - {"__pycache__"}) <= 24


@pytest.mark.parametrize("path", modules("keras_bt"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = path.relative_to(ROOT / "keras_bt").parts[0].removesuffix(".py")
    names = set(imports(path))
    for script in ("trainers", "export", "benchmarks", "absl.flags"):
        assert not [name for name in names if within(name, script)]
    if room == "__init__":
        return
    own = floor_of(room, FLOORS)
    for name in names:
        if within(name, "keras_bt") and not within(name, f"keras_bt.{room}"):
            theirs = floor_of(name.removeprefix("keras_bt."), FLOORS)
            assert theirs is not None, f"{name}: import the module, not the face of the whole"
            assert theirs < own, name


@pytest.mark.parametrize(
    "path",
    [*modules("trainers"), *modules("export")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_scripts_point_down(path):
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    helper = floor_of(own, SCRIPT_FLOORS[:2])
    for name in imports(path):
        theirs = floor_of(name, SCRIPT_FLOORS)
        assert theirs is None or theirs <= floor_of(own, SCRIPT_FLOORS), name
        if helper is not None and theirs == helper:  # trainers.runs knows trainers.runs alone
            assert within(name, SCRIPT_FLOORS[helper][0]), name


def test_data_knows_nothing_of_augmentations():
    """keras_cv takes seconds to import, and only the layers need it."""
    users = [p for p in modules("keras_bt") if any(within(n, "keras_cv") for n in imports(p))]
    assert users == [ROOT / "keras_bt" / "augmentations" / "keras_cv_base.py"]
    for path in modules("keras_bt/data"):
        assert not [name for name in imports(path) if within(name, "keras_bt.augmentations")]


@pytest.mark.parametrize("face", FACES)
def test_no_face_exports_the_name_of_a_module(face):
    """`keras_bt.plots.training` is a module, whatever has been imported before."""
    folder = ROOT / "keras_bt" / face
    exported = {name.rpartition(".")[2] for name in imports(folder / "__init__.py")}
    assert not exported & {path.stem for path in folder.glob("*.py")}


def test_the_only_name_that_is_a_module_too():
    """`keras_bt.resnet` is the function; the module is reached by `from keras_bt.resnet import`."""
    exported = {name.rpartition(".")[2] for name in imports(ROOT / "keras_bt" / "__init__.py")}
    modules_and_folders = {path.stem for path in (ROOT / "keras_bt").iterdir()}
    assert exported & modules_and_folders == {"resnet"}


def test_flags_are_read_in_scripts_only():
    for path in modules("keras_bt"):
        assert "FLAGS" not in path.read_text(encoding="utf-8")


def test_the_paper_is_written_in_keras_ops():
    for name in ("objectives/barlow_twins", "optimizer", "resnet", "schedule"):
        names = set(imports(ROOT / "keras_bt" / f"{name}.py"))
        assert not [n for n in names if within(n, "tensorflow")]


def test_private_modules_of_tensorflow_are_imported_where_they_are_needed():
    for path in modules("keras_bt"):
        names = imports(path, at_module_level=True)
        assert not [name for name in names if within(name, "tensorflow.python")]


def test_no_duration_is_taken_from_a_clock_that_may_be_set():
    """`time.time` says when something was; how long it took is of `time.monotonic`."""
    files = [p for f in ("keras_bt", "trainers", "export", "benchmarks") for p in modules(f)]
    users = {path.name for path in files if "time.time()" in path.read_text(encoding="utf-8")}
    # The age of a file, the time of a line, and its distance from the start of its command.
    assert users == {"files.py", "unfinished.py", "metrics_log.py", "gpu.py"}
