"""Gives every command wrong command lines, which must end in one line and change nothing.

    python tests/helpers/wrong_commands.py --count=400

They are made from what the flags declare: values of the wrong type, out of range, not finite,
unknown and misspelled flags, arguments that belong to none; and from files that are missing, of the
wrong kind or damaged. Each is called in this process, which costs milliseconds, and seconds where
only TensorFlow can tell. `test_wrong_commands.py` is the short version of it.
"""

import argparse
import collections
import contextlib
import dataclasses
import importlib
import os
import pathlib
import random
import re
import sys
import tempfile
import time
import typing
import zipfile
from unittest import mock

import numpy as np
import script
import small_network
from places import ROOT

from trainers.cli import command
from trainers.runs.fields import LARGEST, SIZE, kinds_of

NOT_NUMBERS = ("", "x", "nan", "inf", "-inf", "1e999", "½", "1,5", "0xg", "--", "None", "9" * 5000)


class Command(typing.NamedTuple):
    """A command: what `command.run` is called with."""

    name: str
    settings_class: type
    positional: bool

    def __str__(self):
        return self.name

    def call(self, arguments):
        """Does what a user does."""
        package, _, name = self.name.rpartition(".")
        script.call(name, *arguments, package=package)


def commands():
    """All commands of the project."""
    found = []
    for folder in ("trainers", "trainers/ablations", "export", "benchmarks"):
        for path in sorted((ROOT / folder).glob("*.py")):
            if "    command.run(" not in path.read_text(encoding="utf-8"):
                continue
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            with mock.patch.object(command, "run") as run:
                importlib.import_module(name).main()
            arguments = run.call_args
            positional = arguments.kwargs.get("positional", False)
            found.append(Command(name, arguments.args[1], positional))
    return found


NUMBERS = {tuple[int, ...], tuple[float, ...]}


def wrong_values(field):
    """Yields texts that a flag must not take."""
    about, kinds = field.metadata, kinds_of(field)
    if about["choices"]:
        yield from ("", "x", about["choices"][0].upper(), f"{about['choices'][0]},", "1")
    elif SIZE in kinds:
        yield from (*("", "x", "8x", "x8", "8x9x3", "8×9", "8.5", "nan", "0", "8x0", "-8", "-8x8"),)
        yield from (str(about["most"] + 1), f"8x{10**9}", "9" * 30)
    elif bool in kinds:
        yield from ("maybe", "2", "", "nan", "yes!")
    elif {int, float, *NUMBERS} & set(kinds):
        several = not NUMBERS.isdisjoint(kinds)
        texts = [text for text in NOT_NUMBERS if not several or text not in ("", "1,5")]
        numbers = [(LARGEST if about["most"] is None else about["most"]) + 1, 10**30]
        numbers += [about["least"] - 1] if about["least"] is not None else []
        numbers += [about["above"], -1] if about["above"] is not None else []
        texts += [str(number) for number in numbers] + ["1.5"] * {
            float,
            tuple[float, ...],
        }.isdisjoint(kinds)
        for text in texts:
            yield text
            if several:
                yield f"1,{text}"
    elif field.type in (str, str | None):
        yield ""


# Of texts that are looked at before TensorFlow starts.
WRONG_TEXTS = {
    "projector": ("8-", "-8", "8--8", "a", "8,8", "9999999999-8", "0", "8-" * 30 + "8", "８-x"),
    "background": ("red", "#12", "#gggggg", "0"),
    "max_unreadable": ("1", "101%", "nan%", "-1%", "%", "1e2%"),
    "sizes": ("8", "8x", "x8", "0x8", "8x0", "8x8x8", "nanx8"),
    "networks": ("vgg", "resnet50,", "resnet18 resnet50"),
}
# Without these, nothing else is looked at.
NEEDED = {
    "trainers.ablations.run": ["--workdir=run"],
    "trainers.search": ["--query=query.png"],
}
# Of the same command, each right without the other.
CONTRADICTIONS = {
    "trainers.pretrain": (
        ["--epochs=5", "--warmup_epochs=6"],
        ["--image_size=32", "--resize=16"],
        ["--image_size=32x64", "--resize=31"],
        ["--objective=vicreg", "--redundancy_weight=0.01"],
        ["--objective=vicreg", "--vicreg_weights=25,25"],
        ["--objective=info_nce", "--form=gram"],
        ["--temperature=0.2"],
    ),
    "trainers.linear_probe": (
        ["--draws=2"],
        ["--raw_pixels"],
        ["--schedule=step"],
        ["--milestones=3"],
    ),
    "trainers.finetune": (["--scratch_rate=0.1"],),
    "trainers.siamese": (
        ["--frozen"],
        ["--frozen", "--head=0", "--backbone=x"],
        ["--form=cosine", "--margin=0.5"],
        ["--backbone=x", "--width=32"],
    ),
    "trainers.verify": (
        ["--image=x.png"],
        ["--reference=x.png"],
        ["--image=x.png", "--reference=y.png", "--unseen=3"],
        ["--embedding=backbone"],
    ),
    "trainers.features": (["--out=f.json"],),
    "trainers.search": (["--out=grid.jpg"],),
    "trainers.duplicates": (["--out=groups.png"], ["--similarity=1.1"]),
    "trainers.explore": (["--out=page.png"], ["--map=umap"]),
    "trainers.preview_views": (["--out=grid.jpg"], ["--images=101"]),
}


def wrong_flags(which):
    """Yields command lines that are wrong whatever there is on the disk."""
    needed = NEEDED.get(which.name, [])
    yield from ([*needed, *arguments] for arguments in _wrong_flags(which))


def _wrong_flags(which):
    names = [field.name for field in dataclasses.fields(which.settings_class)]
    for field in dataclasses.fields(which.settings_class):
        name = field.name
        for text in (*wrong_values(field), *WRONG_TEXTS.get(name, ())):
            yield [f"--{name}={text}"]
            yield [f"--{name}={text}", f"--{name}={text}"]  # repeated
        if len(name) > 4 and name[:-1] not in names:
            yield [f"--{name[:-1]}=1"]  # misspelled
        if bool not in kinds_of(field):
            yield [f"--{name}"]  # without a value
            yield [f"--no{name}"]
    yield from (
        ["--unknown=1"],
        ["--Data=digits"],
        ["---"],
        ["-"] if not which.positional else ["--x"],
        ["--flagfile"],
        ["--flagfile="],
        ["--flagfile=nowhere"],
        ["--flagfile=~nouser/nowhere"],
        ["--flagfile=loop.flags"],
        ["--flagfile=."],
        ["--flagfile=binary"],
        ["--flagfile=itself.flags"],
        ["--flagfile=deep.flags"],
        ["--flagfile=wrong.flags"],
        ["--flagfile=zero.flags"],
        ["--caf\udce9=1"],
        *CONTRADICTIONS.get(which.name, ()),
    )
    if not which.positional:
        yield from (["--=3"], ["digits"], ["data=digits"], ["caf\udce9"], ["--", "x"])


DATA = (
    *("nothing", "digit", "digits:", "folder:", "folder:nowhere", "folder:empty", "folder:binary"),
    *("folder:texts", "folder:broken", "folder:broken,nowhere", "csv:nowhere", "csv:binary"),
    *("csv:empty", "csv:texts", "csv:header.csv", "csv:gone.csv", "npz:nowhere", "npz:binary"),
    *("npz:empty", "npz:text.txt", "npz:junk.zip", "npz:pickle.npz", "npz:nan.npz"),
    *("idx:nowhere", "idx:empty", "idx:texts", "heldout:", "heldout:9:", "heldout:x:digits"),
    *("heldout:9999:digits", "caf\udce9", "folder:caf\udce9"),
    *("folder:" + "a" * 5000, "🙂"),
)
BACKBONES = ("nowhere", "nowhere.keras", "empty", "binary", "text.keras", "junk.keras", "texts")
BACKBONES += ("caf\udce9", "a" * 5000, "dense.keras", "/dev/null")
FOLDERS = ("binary", "binary/below", "/dev/null", "/dev/null/x", "texts", "a" * 5000)
SWEEPS = ("nothing", "nowhere.json", "text.json", "binary.json", "deep.json", "nan.json")
SWEEPS += ("flags.json", "loss,loss.json", "all,loss", "caf\udce9")
TINY = ["--backbone=small.keras", "--projector=8-8", "--batch_size=16", "--epochs=1"]
TINY += ["--image_size=8", "--noevaluate"]
MEASURE = ["--backbone=small.keras", "--data=digits", "--image_size=8"]


def wrong_files():
    """Yields (name of a command, command line) that are wrong because of what is on the disk."""
    for data in DATA:
        yield "trainers.pretrain", [f"--data={data}", "--workdir=run", *TINY]
        yield "trainers.preview_views", [f"--data={data}", "--image_size=8"]
        yield "trainers.knn", [*MEASURE, f"--data={data}"]
        yield "trainers.verify", [*MEASURE, f"--data={data}"]
        yield "trainers.features", [*MEASURE, f"--data={data}"]
        yield "trainers.search", [*MEASURE, f"--data={data}", "--query=broken/a.png"]
        yield "trainers.explore", [*MEASURE, f"--data={data}"]
        yield "trainers.linear_probe", [*MEASURE, f"--data={data}", "--fast"]
        yield "trainers.finetune", [*MEASURE, f"--data={data}", "--epochs=1"]
        yield "trainers.ablations.run", [f"--data={data}", "--workdir=run", *TINY]
    for backbone in BACKBONES:
        given = f"--backbone={backbone}"
        if backbone.endswith(".keras"):  # else another network, or none
            yield "trainers.pretrain", ["--workdir=run", *TINY, given]
        yield "trainers.knn", [*MEASURE, given]
        yield "trainers.verify", [*MEASURE, given]
        yield "trainers.linear_probe", [*MEASURE, given]
        yield "trainers.finetune", [*MEASURE, given, "--epochs=1"]
        yield "export.export_saved_model", [given, "--image_size=8"]
        yield "export.export_portable", [given, "--image_size=8", "--target=x.tflite"]
        yield "export.convert_torch", [f"--source={backbone}", "--target=x.pth"]
        yield "trainers.plot", [backbone]
        yield "trainers.plot", [backbone, "nowhere", "--out=new"]
    for folder in FOLDERS:
        yield "trainers.pretrain", [f"--workdir={folder}", *TINY]
        yield "trainers.finetune", [*MEASURE, f"--workdir={folder}", "--epochs=1", "--labels=100"]
        if folder != "texts":
            yield "trainers.ablate", ["--sweep=loss", f"--out={folder}/x"]
            yield "trainers.knn", [*MEASURE, f"--out={folder}/x.json"]
            yield "trainers.preview_views", ["--image_size=8", f"--out={folder}/x.png"]
            yield "trainers.linear_probe", [*MEASURE, "--fast", f"--workdir={folder}"]
            yield "export.export_saved_model", ["--backbone=small.keras", f"--out={folder}"]
            target = f"--target={folder}/x.pth"
            yield "export.convert_torch", ["--source=small.keras", target]
    for labels in ("0", "0%", "101%", "x", "nan%", "-5", "1e3", "9999", "9" * 30, "1.5", "%", "５"):
        given = f"--labels={labels}"
        yield "trainers.finetune", [*MEASURE, given, "--workdir=run", "--epochs=1"]
        yield "trainers.linear_probe", [*MEASURE, given, "--workdir=run", "--fast"]
        yield "trainers.linear_probe", [*MEASURE, given, "--workdir=run", "--epochs=1"]
    for sweep in SWEEPS:
        yield "trainers.ablate", [f"--sweep={sweep}", "--out=new"]
    yield "trainers.knn", [*MEASURE, "--image_size=1x8"]
    yield "export.export_saved_model", ["--backbone=small.keras", "--image_size=1x8"]
    for flags in (
        ["--image_feature=image"],
        ["--label_feature=label"],
        ["--batch_size=1048576"],
        ["--projector=1048576-1048576"],
        ["--backbone=resnet152", "--width=4096"],
        ["--backbone=resnet18", "--image_size=4"],
        ["--backbone=resnet42"],
        ["--strategy=tpu"],
        ["--image_size=16"],
    ):
        yield "trainers.pretrain", [*TINY, "--workdir=run", *flags]
    for source in ("nowhere", "binary", "junk.pth", "text.pth", "junk.safetensors", "empty"):
        yield "export.convert_torch", [f"--source={source}", "--target=x.keras"]
    for target in ("x", "x.txt", "x.onnx.txt", "empty", "small.keras", "binary", "x.keras/"):
        yield "export.convert_torch", ["--source=small.keras", f"--target={target}"]
        yield "export.export_portable", ["--backbone=small.keras", f"--target={target}"]
    yield "export.convert_torch", ["--source=small.keras"]
    yield "export.convert_torch", ["--target=x.pth"]
    yield "export.convert_torch", ["--source=small.keras", "--target=x.pth", "--drop_head"]
    yield "trainers.plot", []
    yield "trainers.ablate", []
    yield "trainers.ablations.run", []
    yield "trainers.knn", [*MEASURE, "--k=99999"]
    yield "trainers.knn", [*MEASURE, "--cache_dir=binary"]
    yield "benchmarks.serving", ["--backbone=resnet9"]
    yield "benchmarks.serving", ["--backbone=nowhere.keras"]
    yield "benchmarks.replicas", ["--sizes=7x8", "--counts=2"]


def fill(folder):
    """Puts what `wrong_files` names into a folder."""
    small_network.save(folder / "small.keras")
    junk = random.Random(0).randbytes(1000)
    for name in ("binary", "junk.keras", "binary.json", "junk.pth", "junk.safetensors"):
        (folder / name).write_bytes(junk)
    for name in ("text.txt", "text.keras", "text.json", "text.pth"):
        (folder / name).write_text("some text\n")
    for name in ("empty", "texts", "broken/a"):
        (folder / name).mkdir(parents=True)
    (folder / "texts" / "thesis.tex").write_text("all my work")
    (folder / "texts" / "train-images-idx3-ubyte").write_text("no images")
    for name in ("1.png", "2.jpg", "3.gif"):
        (folder / "broken" / "a" / name).write_bytes(b"\x89PNG\r\n\x1a\n" + junk)
    (folder / "header.csv").write_text("file,class\na.png,b\n")
    (folder / "gone.csv").write_text("path,label\na.png,b\nc.png,b\nd.png,e\n")
    with zipfile.ZipFile(folder / "junk.zip", "w") as archive:
        archive.writestr("images.npy", junk)
    np.savez(folder / "pickle.npz", images=np.array([{}, None], object))
    np.savez(folder / "nan.npz", images=np.full((4, 8, 8, 3), np.nan))
    (folder / "itself.flags").write_text("--flagfile=itself.flags\n")
    (folder / "loop.flags").symlink_to("loop.flags")
    (folder / "deep.flags").write_text("--flagfile=wrong.flags\n")
    (folder / "wrong.flags").write_text("--no_such_flag=1\n")
    (folder / "zero.flags").write_bytes(b"--data=a\0b\n")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "nan.json").write_text('{"title": "", "x": "", "runs": [{"at": NaN}]}')
    (folder / "loss.json").write_text('{"title": "", "x": "", "runs": [{"at": 1}]}')
    flags = '{"title": "", "x": "", "runs": [{"at": 1, "flags": {"width": 1e9}}]}'
    (folder / "flags.json").write_text(flags)
    # A model that takes no images.
    import keras

    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(folder / "dense.keras")


def contents(folder):
    """What lies in a folder, each with its size and time."""
    return {
        path: (path.lstat().st_size, path.lstat().st_mtime_ns if path.is_file() else 0)
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def captured():
    """Yields a list that gets the two texts which went to the outputs, TensorFlow's included."""
    found, streams = [], {1: "stdout", 2: "stderr"}
    with contextlib.ExitStack() as stack:
        files = {n: stack.enter_context(tempfile.TemporaryFile()) for n in streams}
        for number, name in streams.items():
            getattr(sys, name).flush()
            stack.callback(os.close, before := os.dup(number))
            stack.callback(os.dup2, before, number)
            os.dup2(files[number].fileno(), number)
            stream = open(os.dup(number), "w", encoding="utf-8")  # noqa: SIM115
            stack.enter_context(stream)
            stack.enter_context(mock.patch.object(sys, name, stream))
        yield found
        for number, name in streams.items():
            getattr(sys, name).flush()
            files[number].seek(0)
            found.append(files[number].read().decode("utf-8", "replace"))


def complaint(which, arguments):
    """Says what is wrong with how a wrong command line ends; None if all is as it should be."""
    before = contents(pathlib.Path.cwd())
    status = "went well"
    with captured() as texts:
        try:
            which.call(arguments)
        except SystemExit as end:
            status = end.code
        except BaseException as error:
            status = repr(error)[:500]
    # TensorFlow's log, which it begins to write to before anybody can tell it not to.
    said = [
        line for line in texts[1].splitlines() if not re.match(r"[IWE]\d{4} |WARNING: All", line)
    ]
    if status != 1:
        return f"ended with {status}, not with 1; said {said[-1:]}"
    if len(said) != 1 or not said[0].startswith("error: "):
        return f"said {said}"
    if "Traceback" in texts[0]:
        return f"said {said}"
    after = contents(pathlib.Path.cwd())
    if before != after:
        return f"changed {sorted(str(path) for path in before.keys() ^ after.keys())}"
    return None


def refused(which, arguments):
    """Whether the flags are refused before anything is begun."""
    try:
        _, rest = command.parsed(arguments, which.settings_class)
    except ValueError:
        return True
    return bool(rest) and not which.positional


def attempt(count, folder, seed=0, files=True, shown=False):
    """Tries wrong command lines, as many as wanted and there are, in turn of each command.

    Args:
        count: number of them.
        folder: an empty folder, which is the current one meanwhile.
        seed: of the choice.
        files: whether files are wrong too, not just flags: these take longer.
        shown: whether to print each that does not end as it should, and how long the slowest take.

    Returns:
        How many each command was given, and a list of (command, arguments, what is wrong).
    """
    draw, known = random.Random(seed), {which.name: which for which in commands()}
    lines = {name: list(wrong_flags(which)) for name, which in known.items()}
    wrong, of_files = [], collections.defaultdict(list)
    for name, arguments in wrong_files() if files else ():
        of_files[name].append(arguments)
    for name in known:
        draw.shuffle(lines[name])
        # As many of either kind, while there are.
        both = zip(of_files[name] + [None] * len(lines[name]), lines[name], strict=False)
        draw.shuffle(of_files[name])
        lines[name] = [line for pair in both for line in pair if line is not None]
    turns = [(name, line) for name in known for line in lines[name]]
    places = {id(line): place for name in known for place, line in enumerate(lines[name])}
    turns.sort(key=lambda turn: places[id(turn[1])])
    given, slow = collections.Counter(), []
    with contextlib.chdir(folder):
        fill(pathlib.Path())
        for name, arguments in turns[:count]:
            given[name] += 1
            began = time.monotonic()
            of_flags = arguments not in of_files[name]
            if of_flags and not refused(known[name], arguments):
                found = "is taken"
            else:
                found = complaint(known[name], arguments)
            slow.append((time.monotonic() - began, name, arguments))
            if found:
                wrong.append((name, arguments, found))
                if shown:
                    print(f"{name} {arguments!r:.300}: {found[:1000]}", flush=True)
    if shown:
        for seconds, name, arguments in sorted(slow, reverse=True)[:3]:
            print(f"{seconds:.1f} s: {name} {arguments!r:.150}")
    return given, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        given, wrong = attempt(arguments.count, folder, arguments.seed, shown=True)
    print(dict(given))
    lines = [(which, line) for which in commands() for line in wrong_flags(which)]
    taken = [(which.name, line) for which, line in lines if not refused(which, line)]
    print(f"Of all {len(lines)} with wrong flags {len(taken)} were taken {taken or ''}")
    print(
        f"{sum(given.values())} wrong command lines in {time.monotonic() - began:.0f} s: "
        f"{len(wrong)} did not end in one line with status 1 and nothing changed."
    )
    raise SystemExit(bool(wrong or taken))


if __name__ == "__main__":
    main()
