"""A sweep as data: a JSON file that lists settings, and the runs that follow from it.

    {
      "title": "Batch size",
      "finding": "What the paper found, and where.",
      "x": "images per batch",                  label of the horizontal axis; "log": true for log₂
      "flags": {"flagfile": "RECIPE", ...},     flags of trainers.pretrain, for all runs
      "seeds": [0, 1, 2],
      "references": ["untrained", "pixels"],    baselines, drawn as lines
      "prefix": "small",                        optional: what the folders' names begin with
      "runs": [
        {"at": 32, "flags": {"batch_size": 32, "rate": 1.1}},
        {"at": 64, "flags": {...}, "series": "name of the curve", "seeds": [0]}
      ]
    }

"at" is a number, or a string for an axis of categories. "script" names what to run instead of
pretraining: "linear_probe", "raw_pixels" or "finetune". {seed} and {runs} (the folder of all runs)
are filled in in the values of its flags, so that it can use a backbone that another sweep trained;
pretraining begins with one whose file it is given, {runs}/FOLDER/backbone.keras.

A run's folder is named after the recipe, or the sweep if there is none, and the run's own flags:
digits,batch_size=32,rate=1.1-seed0, say. Sweeps of the same recipe therefore share runs, such as
the one that changes nothing; those that set other flags for all runs need a "prefix". The flags
that made a folder are recorded beside it, and a run with other flags is refused.
"""

import dataclasses
import functools
import json
import math
import operator
import pathlib
import re
import sys

from trainers.ablations.run import AblationSettings
from trainers.cli import command
from trainers.runs.settings import FinetuningSettings, LinearProbeSettings

_REMEDY = "Remove it, and the same command makes that run again."
SWEEPS = pathlib.Path(__file__).parent / "sweeps"
RECIPES = pathlib.Path(__file__).parent.parent / "recipes"
LONGEST_NAME = 200  # bytes; with what is put beside it, file systems take 255
REFERENCES = {"untrained": "untrained backbone", "pixels": "raw pixels"}
SETTINGS = {
    "trainers.ablations.run": AblationSettings,
    "trainers.linear_probe": LinearProbeSettings,
    "trainers.finetune": FinetuningSettings,
}
_MEASURED = {name: [name] for name in ("knn", "knn_whitened", "probe", "few_labels")}
_PROBE = ("trainers.linear_probe", "linear_probe_fast*.json")
# Script: its module, the last file that it writes, and the keys that lead to each measure in there.
SCRIPTS = {
    "pretrain": ("trainers.ablations.run", "measured.json", _MEASURED),
    "linear_probe": (*_PROBE, {"accuracy": ["results", "backbone", "top1"]}),
    "raw_pixels": (*_PROBE, {"accuracy": ["results", "raw pixels", "top1"]}),
    "finetune": ("trainers.finetune", "summary.json", {"accuracy": ["last", "top1"]}),
}
# Names of the measures in tables and plots.
MEASURES = {
    "knn": "nearest neighbors (k = 20)",
    "knn_whitened": "whitened (k = 20)",
    "probe": "linear probe, all labels",
    "few_labels": "linear probe, few labels",  # replaced by their number
    "accuracy": "accuracy",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: an entry of a sweep with one seed, all flags, and the folder that is its workdir."""

    at: int | float | str
    series: str
    seed: int
    script: str
    flags: dict
    folder: pathlib.Path

    def beside(self, ending):
        """Returns a file beside the folder."""
        return pathlib.Path(f"{self.folder}.{ending}")

    @property
    def needs(self):
        """The folder of the run whose backbone this one uses, or None."""
        backbone = pathlib.Path(self.flags.get("backbone", "."))
        if backbone.name == "backbone.keras":  # which pretraining goes on with
            backbone = backbone.parent
        return backbone if backbone.parent == self.folder.parent else None

    @property
    def lacks_backbone(self):
        """True if this run uses the backbone of another that has not been trained yet."""
        return bool(self.needs) and not (self.needs / "backbone.keras").exists()

    @property
    def settings(self):
        """All flags as strings, the recipe's included; a backbone is named by its run's folder."""
        flags = {name: str(value) for name, value in self.flags.items()}
        recipe = flags.pop("flagfile", None)
        if self.needs:
            flags["backbone"] = self.needs.name  # the folder of all runs may be moved
        lines = _recipe(recipe).read_text(encoding="utf-8").splitlines() if recipe else []
        given = (line.removeprefix("--").partition("=") for line in lines if line.startswith("--"))
        return {name: value for name, _, value in given} | flags

    def record(self):
        """Reads the recorded "settings" and "seconds", by default these settings and 0.

        Raises:
            ValueError: if the file is damaged.
        """
        file = self.beside("json")
        if not file.exists():
            return {"settings": self.settings, "seconds": 0.0}
        record = _read(file)
        if not isinstance(record.get("settings"), dict) or "seconds" not in record:
            raise ValueError(f"{file} must hold the settings of a run. {_REMEDY}")
        return record

    def measures(self):
        """Reads the results, a dict of floats 0 to 1; None if the run is not finished.

        Raises:
            ValueError: if the file is damaged.
        """
        _, pattern, places = SCRIPTS[self.script]
        files = sorted(f for f in self.folder.glob(pattern) if ".partial" not in f.name)
        if not files:
            return None
        content = {"knn_whitened": None, **_read(files[0])}  # which earlier runs lack
        try:
            found = {n: functools.reduce(operator.getitem, places[n], content) for n in places}
        except (LookupError, TypeError) as error:
            raise ValueError(f"{files[0]} must hold the results of a run. {_REMEDY}") from error
        return {name: value for name, value in found.items() if value is not None}

    def command(self):
        """Returns the command that makes the run, a list of strings."""
        flags, arguments = {"workdir": self.folder, **self.flags}, []
        if "flagfile" in flags:  # first, as the last value of a flag counts
            arguments.append(f"--flagfile={_recipe(flags.pop('flagfile'))}")
        for name, value in flags.items():
            switch = f"--{'' if value else 'no'}{name}"
            arguments.append(switch if isinstance(value, bool) else f"--{name}={value}")
        return [sys.executable, "-m", SCRIPTS[self.script][0], *arguments]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep, with attributes as in the head of this module.

    `runs` and `references` are tuples of `Run`s, of all seeds and in order; `uses_data` is True if
    they leave the images open.
    """

    name: str
    uses_data: bool
    title: str
    x: str
    runs: tuple
    references: tuple = ()
    finding: str = ""
    prefix: str = ""
    log: bool = False
    flags: dict = dataclasses.field(default_factory=dict)
    seeds: tuple = (0,)


def read(name, data, folder):
    """Reads a sweep and derives its runs.

    Args:
        name: name of a file in trainers/ablations/sweeps, or path of another `.json` file.
        data: string that replaces {data} in the flags, or None.
        folder: folder of all runs, each in a folder of its own.

    Raises:
        ValueError: if there is no such sweep, or the file is not as described above.
    """
    path = pathlib.Path(name) if name.endswith(".json") else SWEEPS / f"{name}.json"
    if not path.is_file():
        raise ValueError(
            f"--sweep must be one of {', '.join(names())}, or a .json file. Received: {name}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        sweep = Sweep(path.stem, "{data}" in text, **json.loads(text))
        _check(sweep)
        sweep = _with_runs(sweep, {"data": data, "runs": pathlib.Path(folder)})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} must hold a sweep, as trainers/ablations/sweeps.py describes it. "
            f"Received: {error!r}"
        ) from error
    if data is None and sweep.uses_data:
        raise ValueError(f"--data is needed: {path.name} leaves the images open.")
    return sweep


def _check(sweep):
    """Checks what the file says before anything is derived from it, or hours later plotted.

    Raises:
        ValueError: if a value is of the wrong type, or not finite.
    """
    entries = sweep.runs
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'"runs" must be a list of objects, and is {entries!r:.60}')
    series = [entry.get("series", "") for entry in entries]
    for name, values, kind in (
        ("title", [sweep.title], str),
        ("x", [sweep.x], str),
        ("finding", [sweep.finding], str),
        ("prefix", [sweep.prefix], str),
        ("series", series, str),
        ("log", [sweep.log], bool),
        ("at", [entry["at"] for entry in entries], (int, float, str)),
        ("flags", [sweep.flags, *(entry.get("flags", {}) for entry in entries)], dict),
    ):
        for value in values:
            if not isinstance(value, kind) or not _is_finite(value):
                raise ValueError(f'"{name}" cannot be {value!r:.60}')
    for seeds in (sweep.seeds, *(entry.get("seeds", [0]) for entry in entries)):
        if not seeds or not all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds):
            raise ValueError(f'"seeds" must be a list of whole numbers, and is {seeds!r:.60}')
    for flags in (sweep.flags, *(entry.get("flags", {}) for entry in entries)):
        for name, value in flags.items():
            if not isinstance(value, (str, int, float)) or not _is_finite(value):
                raise ValueError(f"the flag {name} cannot be {value!r:.60}")


def _is_finite(value):
    return not isinstance(value, float) or math.isfinite(value)


def _with_runs(sweep, places):
    """Replaces the file's entries by `Run`s; `places` are what braces name."""

    def runs(at, flags=(), series="", seeds=sweep.seeds, script="pretrain"):
        own = dict(flags)
        parts = [sweep.prefix or sweep.flags.get("flagfile", sweep.name)]
        parts += [script] if script != "pretrain" else []
        # Without the backbone of another run, which the seed implies.
        parts += [f"{k}={v}" for k, v in sorted(own.items()) if not str(v).startswith("{runs}")]
        if script not in SCRIPTS:
            raise ValueError(f"script {script}, which is none of {', '.join(SCRIPTS)}")
        for seed in seeds:
            given = {
                key: value.format(seed=seed, **places) if isinstance(value, str) else value
                for key, value in {**sweep.flags, **own, "seed": seed}.items()
            }
            name = re.sub(r"[^\w.,=%-]+", "_", ",".join(parts)) + f"-seed{seed}"
            if len(name.encode()) > LONGEST_NAME:
                raise ValueError(f"too many flags for the name of a folder: {name:.60}…")
            yield Run(at, series, seed, script, given, places["runs"] / name)

    if len({(e.get("series", ""), e["at"]) for e in sweep.runs}) < max(1, len(sweep.runs)):
        raise ValueError("no runs, or the same at twice within a series")
    references = []
    for kind in sweep.references:
        seeds = sweep.seeds[:1] if kind == "pixels" else sweep.seeds  # pixels are never random
        references += runs(kind, {"measure": kind}, REFERENCES[kind], seeds)
    found = tuple(run for entry in sweep.runs for run in runs(**entry))
    return dataclasses.replace(sweep, runs=found, references=tuple(references))


def _read(file):
    from keras_bt.workdir import read_record  # which imports TensorFlow

    return read_record(file, _REMEDY)


def check_folders(runs):
    """Refuses runs that would be mistaken for others in the same folder, or lack a backbone.

    Raises:
        ValueError: if a folder holds, or is meant to hold, a run with other settings, of which the
            first is named; or if the backbone that a run uses is neither trained nor about to be.
    """
    recorded, folders = {}, {run.folder for run in runs}
    for run in runs:
        theirs = recorded.setdefault(run.folder, run.record()["settings"])
        ours = run.settings
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise ValueError(
                    f"{run.folder} belongs to a run with {name}={theirs.get(name)}. "
                    f"Received: {name}={ours.get(name)}. Choose another --out."
                )
        if run.lacks_backbone and run.needs not in folders:
            raise ValueError(
                f"The sweep that trains {run.needs} must be run first, or be given as well: "
                "--sweep=ONE,OTHER. Received: only a sweep that uses its backbone."
            )


def check_flags(runs):
    """Refuses runs whose script would refuse their flags, each after the others.

    Raises:
        ValueError: with what the script would say.
    """
    for run in runs:
        settings_class = SETTINGS.get(SCRIPTS[run.script][0])
        if settings_class is not None:
            try:
                command.parsed(run.command()[3:], settings_class)
            except ValueError as error:
                raise ValueError(f"{run.folder.name}: {error}") from error


def names():
    """Lists the names of the sweeps that come with this package."""
    return sorted(path.stem for path in SWEEPS.glob("*.json"))


def _recipe(name):
    """Returns the file of a recipe, given its name or path."""
    return pathlib.Path(name) if name.endswith(".flags") else RECIPES / f"{name}.flags"
