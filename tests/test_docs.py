"""What README and docs/ say can be typed: flags exist, links lead somewhere, Python compiles."""

import contextlib
import dataclasses
import importlib
import re
import shlex
from unittest import mock

import keras
import pytest
from places import ROOT

from keras_bt.resnet import STAGES
from trainers.cli import command

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [p for f in ("keras_bt", "trainers", "export") for p in sorted((ROOT / f).rglob("*.py"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
RUN = "<!-- run -->"
ABSL = {"flagfile", "help", "helpfull"}


def blocks(page, language):
    """(number of its line, text, whether it is marked to be run) of the page's fenced blocks."""
    pattern = rf"(?m)^((?:{RUN}\n)?)```{language}\n(.*?)^```$"
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(pattern, text, re.DOTALL):
        yield text.count("\n", 0, found.start()) + 1, found[2], bool(found[1])


def python_blocks(run):
    for page in PAGES:
        for line, text, marked in blocks(page, "python"):
            if marked or not run:
                slow = [pytest.mark.slow] if run else []
                yield pytest.param(text, id=f"{page.name}:{line}", marks=slow)


def commands(page):
    """The words of each command in the page: in bash blocks, and in backticks."""
    for _, text, _ in blocks(page, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|", line):
                with contextlib.suppress(ValueError):  # a quote over several lines
                    yield shlex.split(part, comments=True)
    for found in re.findall(
        r"`((?:python -m |)(?:trainers|export|benchmarks)\.[^`]*)`", text_of(page)
    ):
        words = found.replace("…", "").split()
        yield words if words[:1] == ["python"] else ["python", "-m", *words]


def text_of(page):
    return re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))


def file_of(module):
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"


def flags_of(path):
    """Names of the flags of a command, or of a script that defines its own."""
    if path.parts[len(ROOT.parts)] in ("trainers", "export", "benchmarks"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        with mock.patch.object(command, "run") as run:
            importlib.import_module(module).main()
        return {field.name for field in dataclasses.fields(run.call_args.args[1])}
    text = path.read_text(encoding="utf-8")
    return set(re.findall(r'(?:DEFINE_\w+\(|"--)\s*"?([a-z_]\w*)', text))


@EVERY_PAGE
def test_commands_exist(page):
    for words in commands(page):
        while words and re.fullmatch(r"[A-Z_]+=.*|srun|exec|--(nodes|ntasks|gpus)\S+", words[0]):
            words = words[1:]
        if words[:1] != ["python"] or len(words) < 2:
            continue
        if words[1] == "-m":
            module, arguments = words[2].rstrip(".,;:"), words[3:]
            if not re.match(r"(trainers|export|benchmarks)\b", module):
                continue
            path = file_of(module)
            assert path.is_file(), words
        elif words[1].endswith(".py"):
            path, arguments = ROOT / words[1], words[2:]
            assert path.is_file(), words
        else:
            continue
        arguments = [argument for argument in arguments if argument.startswith("--")]
        known = flags_of(path) | ABSL if arguments else set()
        for argument in arguments:
            name, _, value = argument[2:].rstrip(".,;:").partition("=")
            name = name.strip("[]")
            assert name in known or name.removeprefix("no") in known, f"{argument} of {words}"
            if name == "flagfile" and "NAME" not in value:
                assert (ROOT / value).is_file(), argument


@EVERY_PAGE
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", linked.read_text(encoding="utf-8"))
            assert anchor in {slug(heading) for heading in headings}, target


def slug(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("text", list(python_blocks(run=False)))
def test_python_compiles(text):
    compile(text, "block", "exec")


@pytest.mark.parametrize("text", list(python_blocks(run=True)))
def test_marked_python_runs(text, tmp_path, monkeypatch):
    monkeypatch.setitem(STAGES, 18, ((1, 1, 1, 1), False))  # half of the blocks, traced sooner
    with contextlib.chdir(tmp_path):
        exec(compile(text, "block", "exec"), {"__name__": "__main__"})
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_names_in_backticks_resolve(path):
    for name in set(re.findall(r"`(keras_bt(?:\.\w+)+)[`(]", path.read_text(encoding="utf-8"))):
        assert resolves(name), name


def resolves(name):
    """Whether a dotted name is a module, or an attribute that can be reached from one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as e:
            if e.name == "jax" and length == len(parts):  # an extra, which may not be installed
                return True
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                break
            found = getattr(found, part)
        else:
            return True
    return False


def test_readme_fits_on_a_screen_or_four():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_no_sentence_stands_twice():
    """Each fact has one place; a copy would go stale."""
    seen = {}
    for page in PAGES:
        text = re.sub(r"(?m)^\|.*$", "", text_of(page))
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in re.split(r"(?<=[.!?:]) ", " ".join(paragraph.split())):
                if len(sentence.split()) >= 10:
                    assert seen.setdefault(sentence, page) is page, f"{sentence} ({seen[sentence]})"
