"""A sweep as data: a JSON file that lists settings, and the runs that follow from it.

    {
      "title": "Batch size",
      "finding": "What the paper found, and where.",
      "x": "images per batch",                  label of the horizontal axis; "log": true for log₂
      "flags": {"flagfile": "RECIPE", ...},     flags of trainers.pretrain, for all runs
      "seeds": [0, 1, 2],
      "references": ["untrained", "pixels"],    baselines, drawn as lines
      "runs": [
        {"at": 32, "flags": {"batch_size": 32, "rate": 1.1}},
        {"at": 64, "flags": {...}, "series": "name of the curve", "seeds": [0]}
      ]
    }

"at" is a number, or a string for an axis of categories. "script" names what to run instead of
pretraining: "linear_probe", "raw_pixels" or "finetune". {seed} and {runs} (the folder of all runs)
are filled in in the values of its flags, so that it can use a backbone that another sweep trained.

A run's folder is named after the recipe, or the sweep if there is none, and the run's own flags.
Sweeps of the same recipe therefore share runs, such as the one that changes nothing. The flags that
made a folder are recorded beside it, and a run with other flags is refused.
"""

import dataclasses
import functools
import json
import operator
import pathlib
import re
import sys

SWEEPS = pathlib.Path(__file__).parent / "sweeps"
RECIPES = pathlib.Path(__file__).parent.parent / "recipes"
REFERENCES = {"untrained": "untrained backbone", "pixels": "raw pixels"}
_SWEEP = {"title", "finding", "x", "log", "flags", "seeds", "references", "runs"}
_RUN = {"at", "flags", "series", "seeds", "script"}


@dataclasses.dataclass(frozen=True)
class Script:
    """A command that makes runs.

    Attributes:
        module: module that `python -m` runs.
        result: glob pattern of the last file that it writes to its workdir.
        measures: dict from names of measures to the path of keys that leads to each in that file.
    """

    module: str
    result: str
    measures: dict


SCRIPTS = {
    "pretrain": Script(
        "trainers.ablations.run",
        "measured.json",
        {"knn": ["knn"], "probe": ["probe"], "few_labels": ["few_labels"]},
    ),
    "linear_probe": Script(
        "trainers.linear_probe",
        "linear_probe_fast*.json",
        {"accuracy": ["results", "backbone", "top1"]},
    ),
    "raw_pixels": Script(
        "trainers.linear_probe",
        "linear_probe_fast*.json",
        {"accuracy": ["results", "raw pixels", "top1"]},
    ),
    "finetune": Script("trainers.finetune", "summary.json", {"accuracy": ["last", "top1"]}),
}
# Names of the measures in tables and plots.
MEASURES = {
    "knn": "nearest neighbors (k = 20)",
    "probe": "linear probe, all labels",
    "few_labels": "linear probe, few labels",  # replaced by their number
    "accuracy": "accuracy",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        at: place on the horizontal axis.
        series: curve that it belongs to; "" for the only one.
        seed: int.
        script: key of `SCRIPTS`.
        flags: dict from names of flags to values, those of the sweep included.
        folder: its workdir.
    """

    at: int | float | str
    series: str
    seed: int
    script: str
    flags: dict
    folder: pathlib.Path

    @property
    def result_file(self):
        """The file with the results, or None if the run is not finished."""
        found = sorted(self.folder.glob(SCRIPTS[self.script].result))
        return next((file for file in found if ".partial" not in file.suffixes), None)

    @property
    def settings(self):
        """All flags as strings, including the recipe's; a backbone is named by its run's folder.

        Raises:
            OSError: if there is no such recipe.
        """
        flags = {name: str(value) for name, value in self.flags.items() if name != "flagfile"}
        if self.needs:
            flags["backbone"] = self.needs.name  # the folder of all runs may be moved
        if "flagfile" not in self.flags:
            return flags
        lines = _recipe(self.flags["flagfile"]).read_text(encoding="utf-8").splitlines()
        given = (line.removeprefix("--").partition("=") for line in lines if line.startswith("--"))
        return {name: value for name, _, value in given} | flags

    @property
    def record_file(self):
        """The file beside the folder that records its settings and time."""
        return pathlib.Path(f"{self.folder}.json")

    def record(self):
        """Reads `record_file`: a dict of "settings" and "seconds".

        Without the file the run has not begun, or not from here: a printed command may have been
        run elsewhere.
        """
        if not self.record_file.exists():
            return {"settings": self.settings, "seconds": 0.0}
        return json.loads(self.record_file.read_text(encoding="utf-8"))

    @property
    def needs(self):
        """The folder of the run whose backbone this one uses, or None."""
        backbone = pathlib.Path(self.flags.get("backbone", "."))
        return backbone if backbone.parent == self.folder.parent else None

    @property
    def backbone_file(self):
        """The file of the backbone that this run uses from another, or None."""
        return self.needs and self.needs / "backbone.keras"

    @property
    def is_stale(self):
        """True if the backbone that this run used has been retrained since."""
        backbone, result = self.backbone_file, self.result_file
        if not (result and backbone and backbone.exists()):
            return False
        return backbone.stat().st_mtime > result.stat().st_mtime

    def measures(self):
        """Reads the results, a dict of floats 0 to 1; None if the run is not finished.

        Raises:
            ValueError: if the file does not hold them.
        """
        file = self.result_file
        if file is None:
            return None
        found = {}
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            for name, keys in SCRIPTS[self.script].measures.items():
                found[name] = functools.reduce(operator.getitem, keys, content)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} must hold the results of a run. Received: {error!r}"
            ) from error
        return {name: value for name, value in found.items() if value is not None}

    def command(self):
        """Returns the command that makes the run, a list of strings."""
        flags = {"workdir": str(self.folder), **self.flags}
        # The recipe first, as the last value of a flag counts.
        ordered = sorted(flags.items(), key=lambda item: item[0] != "flagfile")
        return [sys.executable, "-m", SCRIPTS[self.script].module, *map(_flag, ordered)]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep, with attributes as in the head of this module.

    `runs` are those of all seeds, in order; `uses_data` is True if they leave the images open.
    """

    name: str
    title: str
    finding: str
    x: str
    log: bool
    runs: tuple
    references: tuple
    uses_data: bool = False


def read(name, data, folder):
    """Reads a sweep and derives its runs.

    Args:
        name: name of a file in trainers/ablations/sweeps, or path of another `.json` file.
        data: string that replaces {data} in the flags, or None.
        folder: folder of all runs, each in a folder of its own.

    Returns:
        A `Sweep`.

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
        content = json.loads(text)
    except ValueError as error:  # not text, or not JSON
        raise ValueError(f"{path} must be a JSON file. {error}") from error
    _check_content(content, path)
    if data is None and "{data}" in text:
        raise ValueError(f"--data is needed: {path.name} leaves the images open.")
    folder = pathlib.Path(folder)
    common, seeds = content.get("flags", {}), content.get("seeds", [0])
    places = {"data": data, "runs": folder}

    def runs_of(entry):
        own, script = entry.get("flags", {}), entry.get("script", "pretrain")
        for seed in entry.get("seeds", seeds):
            flags = {**common, **own, "seed": seed}
            for name, value in flags.items():
                flags[name] = _filled(value, {"seed": seed, **places}, path)
            recipe = common.get("flagfile", path.stem)
            # Without the backbone of another run, which the seed implies.
            named = {key: v for key, v in own.items() if not str(v).startswith("{runs}")}
            where = folder / folder_name(recipe, script, named, seed)
            yield Run(entry["at"], entry.get("series", ""), seed, script, flags, where)

    references = [
        {"at": kind, "series": REFERENCES[kind], "flags": {"measure": kind}}
        | ({"seeds": seeds[:1]} if kind == "pixels" else {})  # nothing about them is random
        for kind in content.get("references", [])
    ]
    return Sweep(
        path.stem,
        content["title"],
        content.get("finding", ""),
        content["x"],
        content.get("log", False),
        tuple(run for entry in content["runs"] for run in runs_of(entry)),
        tuple(run for entry in references for run in runs_of(entry)),
        "{data}" in text,
    )


def _filled(value, places, path):
    """Fills in what stands in braces in a flag's value."""
    try:
        return value.format(**places) if isinstance(value, str) else value
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} must have only {', '.join(map('{{{}}}'.format, places))} in braces. "
            f"Received: {value}"
        ) from error


def _check_content(content, path):
    """Refuses content that is not as described above."""
    _check(content, _SWEEP, {"title", "x", "runs"}, path)
    if not content["runs"]:
        raise ValueError(f"runs in {path} must be at least one. Received: []")
    for entry in content["runs"]:
        _check(entry, _RUN, {"at"}, path)
        if not isinstance(entry["at"], (int, float, str)):
            raise ValueError(f"at in {path} must be a number or text. Received: {entry['at']}")
        _known(entry.get("script", "pretrain"), SCRIPTS, "script", path)
    places = [(entry.get("series", ""), entry["at"]) for entry in content["runs"]]
    for place in places:
        if places.count(place) > 1:  # they would pass for seeds of one setting
            raise ValueError(
                f"at in {path} must differ within a series. Received twice: {place[1]}"
            )
    for kind in content.get("references", []):
        _known(kind, REFERENCES, "references", path)


def _check(entry, known, needed, path):
    """Refuses an entry with unknown or missing keys, or with values of the wrong type."""
    given = set(entry) if isinstance(entry, dict) else {type(entry).__name__}
    if not needed <= given <= known:
        raise ValueError(
            f"{path} must hold a sweep. Missing: {', '.join(sorted(needed - given)) or 'nothing'}; "
            f"unknown: {', '.join(sorted(given - known)) or 'nothing'}."
        )
    for name, kind in {"runs": list, "seeds": list, "references": list, "flags": dict}.items():
        if not isinstance(entry.get(name, kind()), kind):
            meant = "a list" if kind is list else "an object"
            raise ValueError(f"{name} in {path} must be {meant}. Received: {entry[name]}")


def _known(value, choices, name, path):
    """Refuses a value that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} in {path} must be one of {', '.join(choices)}. Received: {value}")


def check_folders(runs):
    """Refuses runs that would be mistaken for others in the same folder, or lack a backbone.

    Raises:
        ValueError: if a folder holds, or is meant to hold, a run with other settings, of which the
            first is named; or if the backbone that a run uses is neither trained nor about to be,
            or has been retrained since.
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
        if run.is_stale:
            raise ValueError(
                f"{run.folder} was made with a backbone that has been retrained since. Delete it, "
                f"or choose another --out. Received: {run.needs}, which is newer."
            )
    for run in runs:
        if run.needs and run.needs not in folders and not run.backbone_file.exists():
            raise ValueError(
                f"The sweep that trains {run.needs} must be run first, or be given as well: "
                "--sweep=ONE,OTHER. Received: only a sweep that uses its backbone."
            )


def names():
    """Lists the names of the sweeps that come with this package."""
    return sorted(path.stem for path in SWEEPS.glob("*.json"))


def folder_name(recipe, script, own, seed):
    """Returns the name of a run's folder: digits,batch_size=32,rate=1.1-seed0, say."""
    differing = [f"{key}={value}" for key, value in sorted(own.items())]
    text = ",".join([recipe, *([script] if script != "pretrain" else []), *differing])
    return re.sub(r"[^\w.,=%-]+", "_", text) + f"-seed{seed}"


def _recipe(name):
    """Returns the file of a recipe, given its name or path."""
    return pathlib.Path(name) if name.endswith(".flags") else RECIPES / f"{name}.flags"


def _flag(item):
    """Formats an argument for absl: --name=value, --name, --noname."""
    name, value = item
    if name == "flagfile":
        value = _recipe(value)
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{name}"
    return f"--{name}={value}"
