"""Sweeps, how their runs are made, tables and pictures, with a program in place of the training."""

import contextlib
import itertools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import script
from drawn import assert_nothing_is_cut_off_or_overlaps, collect_figures, texts
from PIL import Image
from places import ROOT

from trainers.ablations import results, sweeps, waves

# What stands for a training: it notes when it begins and ends, and writes what it "measured".
FAKE = '''
import json, os, pathlib, signal, sys, time

given = dict(argument.lstrip("-").partition("=")[::2] for argument in sys.argv[1:])
folder = pathlib.Path(given["workdir"])
notes = folder.parent / "notes"
notes.mkdir(parents=True, exist_ok=True)

def note(kind):
    partial = notes / f"partial {folder.name}"
    partial.write_text(str(time.monotonic()))
    partial.rename(notes / f"{kind} {folder.name}")  # whole, whenever somebody looks

def count(kind):
    return len(list(notes.glob(f"{kind} *")))

def save(number, frame):
    """As a training does: the first signal lets it save, a second ends it at once."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    time.sleep(0.5)
    note("saved")
    sys.exit(128 + number)

def end(number, frame):
    note("hurried")
    os._exit(1)

for each in (signal.SIGTERM, signal.SIGINT):
    signal.signal(each, save)
with open(notes / "calls", "a") as calls:
    calls.write(folder.name + "\\n")
note("began")
print("working on", folder.name)
deadline = time.monotonic() + 200
while count("began") < int(given.get("together", 0)) and time.monotonic() < deadline:
    time.sleep(0.01)
if "endless" in given:
    time.sleep(600)
note("ended")
if "fails" in given:
    sys.exit("no luck")
folder.mkdir(exist_ok=True)
(folder / "backbone.keras").touch()
if "silent" not in given:
    value = float(given.get("value", 0.5)) + float(given["seed"]) / 50
    text = json.dumps({"knn": value, "probe": None, "few_labels": value / 2})
    (folder / "measured.json").write_text(text)
'''


@pytest.fixture(scope="module")
def fake_module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "fake_training.py").write_text(FAKE)
    return folder


@pytest.fixture
def fake(fake_module, monkeypatch):
    """Sweeps run the program above instead of a training."""
    path = os.pathsep.join([str(fake_module), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
    _, *rest = sweeps.SCRIPTS["pretrain"]
    monkeypatch.setitem(sweeps.SCRIPTS, "pretrain", ("fake_training", *rest))


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file: a function of its name and its content, which returns the path."""

    def written(name, **content):
        path = tmp_path / "files" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        basics = {"title": "Sizes", "x": "size", "runs": [{"at": 1}]}
        basics["flags"] = {"flagfile": "digits"}  # sweeps of one recipe share their runs
        path.write_text(json.dumps(basics | content), encoding="utf-8")
        return str(path)

    return written


def read(path, folder="runs", data="digits"):
    return sweeps.read(str(path), data, folder)


def flags_of(run):
    """The flags of a run's command as absl reads them: the last one wins."""
    return dict(argument.lstrip("-").partition("=")[::2] for argument in run.command()[3:])


def measured(run, knn, probe=None, few_labels=None):
    """Writes a finished run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    content = {"knn": knn, "probe": probe, "few_labels": few_labels}
    content |= {"results": {"backbone": {"top1": knn}, "raw pixels": {"top1": knn}}}
    content |= {"last": {"top1": knn}}
    name = sweeps.SCRIPTS[run.script][1].replace("*", "")
    (run.folder / name).write_text(json.dumps(content))


# Reading


@pytest.mark.parametrize("name", sweeps.names())
def test_the_sweeps_that_come_along_give_their_scripts_flags_that_these_have(name, capsys):
    sweep = sweeps.read(name, "digits", "runs")
    assert sweep.name == name
    runs = {run.folder: run for run in (*sweep.references, *sweep.runs) if run.seed == 0}
    for run in runs.values():
        package, _, module = run.command()[2].rpartition(".")
        # One argument too many ends the script, but only after every flag was found right.
        line = script.mistake(capsys, module, *run.command()[3:], "stop", package=package)
        assert line == "error: Flags must have the form --name=value. Received: stop"


def test_all_sweeps_that_come_along_go_together(tmp_path):
    every = [sweeps.read(name, "digits", tmp_path) for name in sweeps.names()]
    assert len(every) >= 8
    sweeps.check_folders([run for s in every for run in (*s.references, *s.runs)])
    # Two waves do: backbones that runs take are trained by others that take none.
    trained = {run.folder for sweep in every for run in sweep.runs if run.needs is None}
    needing = [run for sweep in every for run in sweep.runs if run.needs]
    assert all(run.needs in trained for run in needing)
    assert {run.script for run in needing} >= {"pretrain", "finetune", "linear_probe"}
    assert all("backbone" in run.flags for run in needing)


def test_a_sweep_is_read(write):
    path = write(
        "sizes",
        finding="Larger is better.",
        log=True,
        flags={"data": "heldout:9:{data}", "flip": 0.5, "evaluate": False, "flagfile": "digits"},
        seeds=[0, 3],
        references=["untrained", "pixels"],
        runs=[
            {"at": 1},
            {"at": 2, "flags": {"flip": 0.25, "remat": True}, "series": "wide"},
            {"at": 4, "flags": {"backbone": "{runs}/a-seed{seed}"}, "seeds": [7]},
        ],
    )
    sweep = read(path, "some/runs", "tfds:mnist")
    assert (sweep.name, sweep.title, sweep.x, sweep.log) == ("sizes", "Sizes", "size", True)
    assert sweep.finding == "Larger is better."
    found = [(run.at, run.series, run.seed) for run in sweep.runs]
    assert found == [(1, "", 0), (1, "", 3), (2, "wide", 0), (2, "wide", 3), (4, "", 7)]
    # An untrained backbone is another one for every seed, pixels are pixels.
    found = [(run.at, run.series, run.seed) for run in sweep.references]
    untrained = [("untrained", "untrained backbone", seed) for seed in (0, 3)]
    assert found == [*untrained, ("pixels", "raw pixels", 0)]
    assert {run.script for run in (*sweep.runs, *sweep.references)} == {"pretrain"}

    first, second, last = sweep.runs[0], sweep.runs[3], sweep.runs[4]
    for run in (first, second, last):
        command = run.command()
        recipe = ROOT / "trainers/recipes/digits.flags"
        # The recipe first: flags have the last word.
        assert command[1:4] == ["-m", "trainers.ablations.run", f"--flagfile={recipe}"]
        assert "--noevaluate" in command
        assert flags_of(run)["data"] == "heldout:9:tfds:mnist"
        assert flags_of(run)["workdir"] == str(run.folder)
        assert flags_of(run)["seed"] == str(run.seed)
        assert pathlib.Path("some/runs") in run.folder.parents
    assert flags_of(first)["flip"] == "0.5"
    assert flags_of(second)["flip"] == "0.25"  # its own wins
    assert "--remat" in second.command()
    assert "--remat" not in first.command()
    assert flags_of(last)["backbone"] == "some/runs/a-seed7"
    assert flags_of(sweep.references[0])["measure"] == "untrained"


def test_other_scripts(write, tmp_path):
    entries = [
        {"at": kind, "script": kind, "flags": {"backbone": "{runs}/a-seed{seed}", **flags}}
        for kind, flags in (("linear_probe", {"fast": True}), ("finetune", {"epochs": 2}))
    ]
    probe, tuned = read(write("a", runs=entries), tmp_path).runs
    assert probe.command()[2] == "trainers.linear_probe"
    assert tuned.command()[2] == "trainers.finetune"
    assert probe.folder != tuned.folder
    for run in (probe, tuned):
        assert run.measures() is None
        run.folder.mkdir()
    (probe.folder / "linear_probe_fast_600.partial.json").write_text('{"resu')  # not whole
    assert probe.measures() is None
    (probe.folder / "linear_probe_fast_600.json").write_text(
        '{"results": {"backbone": {"top1": 0.75}}}'
    )
    (tuned.folder / "summary.json").write_text('{"last": {"top1": 0.5}}')
    assert probe.measures() == {"accuracy": 0.75}
    assert tuned.measures() == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"color": "red"}, "color"),
        ({"runs": [{"at": 1, "flag": {}}]}, "flag"),
        ({"runs": [{"flags": {}}]}, "at"),
        ({"runs": [{"at": 1, "script": "train"}]}, "train"),
        ({"runs": [{"at": 1}, {"at": 2}, {"at": 1, "flags": {"width": 4}}]}, "twice"),
        ({"runs": []}, "no runs"),
        ({"runs": [{"at": 1, "flags": {"note": "a" * 200}}]}, "name of a folder"),
        ({"runs": [{"at": float("nan")}]}, "at"),
        ({"runs": [{"at": [1]}]}, "at"),
        ({"runs": [{"at": 1, "series": 2}]}, "series"),
        ({"title": 5}, "title"),
        ({"log": "yes"}, "log"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0.5]}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"flags": {"rate": float("inf")}}, "rate"),
        ({"flags": {"rate": [1]}}, "rate"),
        ({"flags": {"rate": None}}, "rate"),
        ({"runs": 5}, ""),
        ({"runs": [7]}, ""),
        ({"runs": "all"}, ""),
        ({"references": ["pixel"]}, "pixel"),
        ({"seeds": 4}, ""),
        ({"flags": ["flip"]}, ""),
        ({"runs": [{"at": 1, "flags": ["flip"]}]}, ""),
        ({"flags": {"data": "{dat}"}}, "dat"),
        ({"flags": {"data": "{data"}}, ""),
    ],
)
def test_a_wrong_sweep_is_refused(write, content, word):
    path = write("wrong", **content)
    with pytest.raises(ValueError, match=r"wrong\.json must hold a sweep, .* Received: ") as error:
        read(path)
    assert word in str(error.value).partition("Received: ")[2]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "", "[]", "3", "title: a", '{"x": "", "runs": [{"at": 1}]}'),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"x": ' + "9" * 5000 + "}", id="long number"),
    ],
)
def test_a_file_without_a_sweep_is_refused(tmp_path, text):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.json must hold a sweep"):
        read(tmp_path / "wrong.json")


@pytest.mark.parametrize("name", ["nothing", "nothing.json", "", "../sweeps/loss.md"])
def test_an_unknown_sweep_is_refused(name):
    with pytest.raises(ValueError, match=r"batch_size.*Received: ") as error:
        read(name)
    assert str(error.value).endswith(f"Received: {name}")


# Folders


def test_the_same_settings_share_a_folder_and_others_do_not(write):
    common = {"flagfile": "digits", "data": "{data}"}
    settings = [{}, {"width": 4}, {"width": 8}, {"width": 4, "rate": 0.5}, {"projector": "8-8"}]
    entries = [{"at": i, "flags": f} for i, f in enumerate(settings)]
    one = read(write("one", flags=common, seeds=[0, 1], runs=entries))
    folders = [run.folder for run in one.runs]
    assert len(set(folders)) == len(folders) == 10
    # Another sweep with another title, order and axis, the flags of a run in another order.
    entries = [{"at": "a"}, {"at": "b", "flags": {"rate": 0.5, "width": 4}, "series": "c"}]
    two = read(write("two", title="Other", flags=common, seeds=[1, 0], runs=entries))
    assert [run.folder for run in two.runs] == [folders[i] for i in (1, 0, 7, 6)]
    for run in two.runs:
        (same,) = [other for other in one.runs if other.folder == run.folder]
        assert flags_of(same) == flags_of(run)
    # Elsewhere they lie elsewhere.
    assert "other" in str(read(write("two", flags=common), "other").runs[0].folder.parent)


@pytest.mark.parametrize(
    ("one", "other", "word"),
    [
        ({"flags": {"flagfile": "digits"}}, {"flags": {"flagfile": "small_images"}}, None),
        ({"flags": {"epochs": 1}}, {"flags": {"epochs": 2}}, "epochs=2"),
        ({"flags": {"data": "{data}"}}, {"flags": {"data": "heldout:{data}"}}, "data=heldout:"),
        (
            {"runs": [{"at": 1, "flags": {"a": "b/c"}}]},
            {"runs": [{"at": 1, "flags": {"a": "b_c"}}]},
            "a=b_c",
        ),
        (
            {"runs": [{"at": 1, "flags": {"a": 0.5}}]},
            {"runs": [{"at": 1, "flags": {"a": -0.5}}]},
            None,
        ),
        # A backbone that no run of a sweep trains is a setting like others.
        (
            {"runs": [{"at": 1, "flags": {"backbone": "resnet18"}}]},
            {"runs": [{"at": 1, "flags": {"backbone": "resnet34"}}]},
            None,
        ),
        ({"runs": [{"at": 1, "script": "finetune"}]}, {"runs": [{"at": 1}]}, None),
        (
            {"runs": [{"at": 1, "script": "finetune", "flags": {"backbone": "{runs}/a"}}]},
            {"runs": [{"at": 1, "script": "finetune", "flags": {"backbone": "{runs}/b"}}]},
            "backbone=",
        ),
        ({"references": ["untrained"]}, {"references": ["pixels"]}, None),
    ],
)
def test_one_run_is_not_taken_for_another(write, tmp_path, one, other, word):
    runs = []
    for content in (one, other):
        sweep = read(write("a", **content), tmp_path / "runs")
        runs.append(sweep.references[0] if sweep.references else sweep.runs[0])
    for name in "ab":  # the backbones
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "backbone.keras").touch()
    if word is None:
        assert runs[0].folder != runs[1].folder
        sweeps.check_folders(runs)
        return
    with pytest.raises(ValueError, match=f"Received: {word}"):  # both are to be made
        sweeps.check_folders(runs)
    runs[0].beside("json").write_text(json.dumps(runs[0].record()))
    sweeps.check_folders(runs[:1])
    with pytest.raises(ValueError, match=f"Received: {word}"):  # one has been made
        sweeps.check_folders(runs[1:])


def test_the_folder_of_all_runs_may_be_moved(write, tmp_path):
    entry = {"at": 1, "script": "finetune", "flags": {"backbone": "{runs}/a-seed0"}}
    path = write("b", runs=[entry])
    assert read(path, tmp_path / "here").runs[0].settings["backbone"] == "a-seed0"
    assert read(path, tmp_path / "there").runs[0].settings["backbone"] == "a-seed0"


def test_a_run_of_a_recipe_that_has_changed_since_is_refused(write, tmp_path):
    recipe = tmp_path / "own.flags"
    recipe.write_text("# Mine.\n--epochs=5\n--flip=0\n")
    path = write("a", flags={"flagfile": str(recipe), "flip": 0.5})
    (run,) = read(path, tmp_path / "runs").runs
    assert f"--flagfile={recipe}" in run.command()
    assert run.settings == {"epochs": "5", "flip": "0.5", "seed": "0"}
    run.folder.parent.mkdir()
    run.beside("json").write_text(json.dumps(run.record()))
    recipe.write_text("# Mine.\n--flip=1\n--epochs=5\n")  # nothing that counts
    sweeps.check_folders(read(path, tmp_path / "runs").runs)
    recipe.write_text("# Mine.\n--epochs=6\n")
    with pytest.raises(ValueError, match=r"epochs=5\. Received: epochs=6"):
        sweeps.check_folders(read(path, tmp_path / "runs").runs)


# Tables and pictures


@pytest.fixture
def sweep_of_sizes(write, tmp_path):
    path = write(
        "sizes",
        finding="Larger is better.",
        x="width",
        log=True,
        seeds=[0, 1, 2],
        references=["untrained", "pixels"],
        runs=[{"at": at, "flags": {"width": at}} for at in (8, 64, 4096)],
    )
    sweep = read(path, tmp_path / "runs")
    for run, knn in zip(sweep.runs[:3], (0.5, 0.53, 0.56), strict=True):
        measured(run, knn, probe=2 * knn - 0.2)
    measured(sweep.runs[3], 0.75)  # one seed of three
    for run, knn in zip(sweep.references, (0.2, 0.3, 0.4, 0.45), strict=True):
        measured(run, knn)
    return sweep


def test_what_is_written(sweep_of_sizes, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    text = results.write(out, sweep_of_sizes)
    assert (out / "sizes.md").read_text() == f"# Sizes\n\nLarger is better.\n\n{text}\n"
    assert text.splitlines() == [
        "| width | nearest neighbors (k = 20) | linear probe, all labels | seeds |",
        "| --- | ---: | ---: | ---: |",
        "| 8 | 53.0 ± 3.0 | 86.0 ± 6.0 | 3 |",
        "| 64 | 75.0 | – | 1 of 3 |",
        "| 4,096 | – | – | 0 of 3 |",
        "| untrained backbone | 30.0 ± 10.0 | – | 3 |",
        "| raw pixels | 45.0 | – | 1 |",
        "",
        "Finished runs: 4, of 0 to 0 s, 0 minutes in all.",
    ]
    rows = json.loads((out / "sizes.results.json").read_text())["rows"]
    assert [row["at"] for row in rows] == [8, 64, 4096, "untrained", "pixels"]
    assert rows[0]["values"]["knn"] == [0.5, 0.53, 0.56]
    assert [row["wanted"] for row in rows] == [3, 3, 3, 3, 1]
    with Image.open(out / "sizes.png") as image:
        assert np.unique(np.asarray(image)).size > 5


def test_the_table_of_several_curves(write, tmp_path):
    runs = [
        {"at": 64, "series": name, "flags": {"width": width}}
        for name, width in (("1 layer", 1), ("2 layers", 2))
    ]
    sweep = read(write("a", x="width", runs=runs, references=["pixels"]), tmp_path)
    for run, knn in zip((*sweep.runs, *sweep.references), (0.1, 0.2, 0.3), strict=True):
        measured(run, knn)
    assert results.table(sweep).splitlines() == [
        "| width | curve | nearest neighbors (k = 20) | seeds |",
        "| --- | ---: | ---: | ---: |",
        "| 64 | 1 layer | 10.0 | 1 |",
        "| 64 | 2 layers | 20.0 | 1 |",
        "| raw pixels |  | 30.0 | 1 |",
    ]


def test_the_picture_of_numbers(sweep_of_sizes, tmp_path, monkeypatch):
    figures = collect_figures(monkeypatch)
    assert results.picture(tmp_path / "a.png", sweep_of_sizes)
    (figure,) = figures
    assert figure.get_suptitle() == "Sizes"
    neighbours, probe = figure.axes
    assert neighbours.get_title() == "nearest neighbors (k = 20)"
    assert probe.get_title() == "linear probe, all labels"
    assert neighbours.get_xlabel() == "width"
    assert "percent" in neighbours.get_ylabel()
    assert neighbours.get_xscale() == "log"
    assert texts(neighbours.get_xticklabels()) == ["8", "64"]  # nothing is known of 4096 yet
    (points, bars) = curve(neighbours)
    np.testing.assert_allclose(points, [[8, 53], [64, 75]])
    np.testing.assert_allclose(bars[0], [[8, 50], [8, 56]])
    assert len(bars[1]) == 0  # of one seed no deviation is known
    np.testing.assert_allclose(curve(probe)[0], [[8, 86]])
    references = {
        line.get_label(): line.get_ydata()[0]
        for line in neighbours.lines
        if "backbone" in line.get_label() or "pixels" in line.get_label()
    }
    assert references == pytest.approx({"untrained backbone": 30, "raw pixels": 45})
    (legend,) = figure.legends
    assert set(texts(legend.get_texts())) == {"pretrained backbone", *references}
    assert_nothing_is_cut_off_or_overlaps(figure)


def curve(panel, number=0):
    """Points and error bars of a curve, (n, 2) and (n, 2, 2)."""
    container = panel.containers[number]
    return container.lines[0].get_xydata(), container.lines[2][0].get_segments()


def test_the_picture_of_categories_and_several_curves(write, tmp_path, monkeypatch):
    figures = collect_figures(monkeypatch)
    ats = [("− crops", "A"), ("all", "A"), ("− blur", "B"), ("all", "B")]
    runs = [{"at": at, "series": s, "flags": {"a": at + s}} for at, s in ats]
    sweep = read(write("a", runs=runs, seeds=[0, 1], log=True), tmp_path / "runs")
    for index, run in enumerate(sweep.runs):
        measured(run, 0.1 * (index // 2) + 0.01 * run.seed)
    assert results.picture(tmp_path / "a.png", sweep)
    (panel,) = figures[0].axes
    assert panel.get_xscale() == "linear"
    assert texts(panel.get_yticklabels()) == ["− crops", "all", "− blur"]
    assert list(panel.get_yticks()) == [0, 1, 2]
    assert panel.yaxis_inverted()
    np.testing.assert_allclose(curve(panel, 0)[0], [[0.5, 0], [10.5, 1]])
    np.testing.assert_allclose(curve(panel, 1)[0], [[30.5, 1], [20.5, 2]])
    deviation = np.std([0, 1], ddof=1)
    np.testing.assert_allclose(curve(panel, 0)[1][0], [[0.5 - deviation, 0], [0.5 + deviation, 0]])
    assert texts(figures[0].legends[0].get_texts()) == ["A", "B"]
    assert_nothing_is_cut_off_or_overlaps(figures[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", sweeps.names())
def test_the_pictures_of_the_sweeps_that_come_along(name, tmp_path, monkeypatch):
    figures = collect_figures(monkeypatch)
    sweep = sweeps.read(name, "digits", tmp_path / "runs")
    random = np.random.default_rng(0)
    for run in (*sweep.runs, *sweep.references):
        measured(run, *random.uniform(size=3))
    results.write(tmp_path, sweep)
    (figure,) = figures
    assert_nothing_is_cut_off_or_overlaps(figure)
    renderer = figure.canvas.get_renderer()
    for panel in figure.axes:
        boxes = [(label, label.get_window_extent(renderer)) for label in panel.get_xticklabels()]
        boxes.sort(key=lambda pair: pair[1].x1)
        for (label, left), (_, right) in itertools.pairwise(boxes):
            if label.get_rotation():  # a line's height apart, slanted texts do not overlap
                assert right.x1 - left.x1 > 8
            else:
                assert right.x0 > left.x1


def test_nothing_done_draws_nothing(write, tmp_path):
    sweep = read(write("a", references=["pixels"]), tmp_path / "runs")
    measured(sweep.references[0], 0.5)  # a reference alone is no result
    text = results.write(tmp_path, sweep)
    assert "| 1 | – | 0 of 1 |" in text
    assert "No run is finished." in text
    assert {path.name for path in tmp_path.iterdir()} == {"a.md", "a.results.json", "files", "runs"}


# Making runs


def notes(folder, kind):
    """When the runs began, ended, ...: a dict from the names of their folders."""
    found = folder.rglob(f"notes/{kind} *")
    return {path.name.partition(" ")[2]: float(path.read_text()) for path in found}


def calls(folder):
    return [name for file in folder.rglob("notes/calls") for name in file.read_text().split()]


def make(runs, jobs=1):
    """Makes runs; returns those that failed."""
    work = waves.Waves(jobs)
    work.make(list(runs))
    return work.failed


@pytest.mark.usefixtures("fake")
def test_a_run_that_fails_is_noted_and_the_others_go_on(write, tmp_path, capsys):
    flags = [{"fails": "yes"}, {"silent": "yes"}, {"width": 1}]
    sweep = read(write("a", runs=[{"at": i, "flags": f} for i, f in enumerate(flags)]), tmp_path)
    assert make(sweep.runs) == list(sweep.runs[:2])  # one with an error, one without a result
    assert [run.measures() is None for run in sweep.runs] == [True, True, False]
    logs = [run.beside("log") for run in sweep.runs]
    output = capsys.readouterr().out.splitlines()
    assert output[:2] == [
        f"{logs[0].stem}: started; see {logs[0]}",
        f"{logs[0].stem}: failed, no luck; see {logs[0]}",
    ]
    assert output[-1].startswith(f"{logs[2].stem}: knn 50.0, few_labels 25.0 (")
    run = f"$ {shlex.join(sweep.runs[0].command())}\nworking on {logs[0].stem}\nno luck\n"
    assert logs[0].read_text() == run
    seconds = sweep.runs[0].record()["seconds"]
    assert seconds > 0
    # What failed is tried again, and its log and its time grow.
    make(sweep.runs[:1])
    assert logs[0].read_text() == 2 * run
    assert sweep.runs[0].record()["seconds"] > seconds


@pytest.mark.usefixtures("fake")
def test_a_run_that_cannot_begin_ends_the_sweep_and_keeps_no_one_waiting(write, tmp_path):
    sweep = read(write("a", runs=[{"at": i, "flags": {"width": i}} for i in (1, 2, 3)]), tmp_path)
    sweep.runs[0].beside("log").mkdir(parents=True)  # where its log should go
    with pytest.raises(IsADirectoryError):
        make(sweep.runs)


@pytest.mark.usefixtures("fake")
def test_runs_wait_for_the_backbone_they_take_and_fail_with_it(write, tmp_path, capsys):
    def taking(at, name):
        return {"at": at, "flags": {"width": at, "backbone": f"{{runs}}/digits,{name}-seed0"}}

    made = [{"at": 1, "flags": {"width": 1}}, {"at": 2, "flags": {"fails": "yes"}}]
    entries = [taking(3, "width=1"), taking(4, "fails=yes"), *made]
    sweep = read(write("a", runs=entries), tmp_path / "runs")
    with pytest.raises(ValueError, match=r"width=1-seed0 must be run first"):
        sweeps.check_folders(sweep.runs[:1])
    sweeps.check_folders(sweep.runs)
    failed = make(sweep.runs, jobs=3)
    names = [run.folder.name for run in sweep.runs]
    assert {run.folder.name for run in failed} == {names[1], names[3]}
    assert sorted(calls(tmp_path)) == sorted([names[0], names[2], names[3]])
    assert notes(tmp_path, "began")[names[0]] >= notes(tmp_path, "ended")[names[2]]
    assert f"{names[1]}: skipped, as {names[3]} has no backbone" in capsys.readouterr().out
    # Trained, but for the measuring: that will do.
    sweep.runs[3].folder.mkdir()
    (sweep.runs[3].folder / "backbone.keras").touch()
    assert make([sweep.runs[1], sweep.runs[3]]) == [sweep.runs[3]]
    assert sweep.runs[1].measures() is not None


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("jobs", [1, 2])
def test_so_many_at_a_time(write, tmp_path, jobs):
    entries = [{"at": at, "flags": {"width": at, "together": jobs}} for at in range(4)]
    make(read(write("a", runs=entries), tmp_path).runs, jobs)
    began, ended = notes(tmp_path, "began"), notes(tmp_path, "ended")
    assert len(ended) == 4
    most = max(sum(began[a] <= time < ended[a] for a in began) for time in began.values())
    assert most == jobs


# The script


@pytest.mark.usefixtures("fake")
def test_the_script_runs_reports_and_skips(write, tmp_path, capsys):
    out = tmp_path / "out"
    runs = [{"at": at, "flags": {"width": at, "value": at / 10}} for at in (1, 2)]
    paths = [write("one", runs=runs, seeds=[0, 1], references=["pixels"]), write("two", runs=runs)]
    script.call("ablate", f"--sweep={','.join(paths)}", f"--out={out}", "--jobs=2")
    output = capsys.readouterr().out
    assert len(calls(out / "runs")) == 5  # what both need, once
    for name in ("one", "two"):
        assert {path.suffix for path in out.glob(f"{name}.*")} == {".md", ".png", ".json"}
        assert f"Written to {out}/{name}.*" in output
    assert "| 1 | 11.0 ± 1.4 | 5.5 ± 0.7 | 2 |" in output
    assert (out / "two.md").read_text().count("\n| 2 | 20.0 | 10.0 | 1 |\n") == 1

    script.call("ablate", f"--sweep={','.join(paths)}", f"--out={out}", "--dry_run")
    assert capsys.readouterr().out == ""  # all is done
    script.call("ablate", f"--sweep={paths[0]}", f"--out={out}")
    assert len(calls(out / "runs")) == 5
    assert "| 1 | 11.0 ± 1.4 | 5.5 ± 0.7 | 2 |" in capsys.readouterr().out


@pytest.mark.usefixtures("fake")
def test_a_report_alone_runs_nothing(write, tmp_path, capsys):
    out = tmp_path / "out"
    path = write("one", seeds=[0, 1])
    measured(read(path, out / "runs").runs[0], 0.25)
    script.call("ablate", f"--sweep={path}", f"--out={out}", "--report")
    assert calls(out / "runs") == []
    assert "| 1 | 25.0 | 1 of 2 |" in capsys.readouterr().out


@pytest.mark.usefixtures("fake")
def test_a_dry_run_prints_commands_that_a_shell_can_run(write, tmp_path, capsys, monkeypatch):
    out = tmp_path / "with space; and $sign"
    entries = [{"at": 1, "flags": {"value": 0.5, "name": "a 'b' \"c\""}}, {"at": 2}]
    path = write("one", runs=entries, seeds=[0, 1])
    capsys.readouterr()
    script.call("ablate", f"--sweep={path},{path}", f"--out={out}", "--dry_run")
    lines = capsys.readouterr().out.splitlines()
    assert not out.exists()  # nothing was done
    assert len(lines) == 4
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for line in lines[:2]:
        subprocess.run(line, shell=True, check=True, timeout=200, capture_output=True)
    runs = read(path, out / "runs").runs
    assert [run.measures() is None for run in runs] == [False, False, True, True]
    script.call("ablate", f"--sweep={path}", f"--out={out}", "--dry_run")
    assert capsys.readouterr().out.splitlines() == lines[2:]


@pytest.mark.usefixtures("fake")
def test_a_failed_run_ends_with_one_line_that_names_the_log(write, tmp_path, capsys):
    out = tmp_path / "out"
    path = write("one", runs=[{"at": 1, "flags": {"fails": "yes"}}, {"at": 2}])
    line = script.mistake(capsys, "ablate", f"--sweep={path}", f"--out={out}")
    (failed, done) = read(path, out / "runs").runs
    assert str(failed.beside("log")) in line
    assert str(done.beside("log")) not in line
    assert "| 1 | – | – | 0 of 1 |\n| 2 | 50.0 | 25.0 | 1 |\n" in (out / "one.md").read_text()


@pytest.mark.usefixtures("fake")
def test_a_sweep_is_not_overwritten_by_its_results(write, tmp_path):
    path = pathlib.Path(write("one"))
    before = path.read_text()
    with contextlib.suppress(SystemExit):  # to refuse is as good
        script.call("ablate", f"--sweep={path}", f"--out={path.parent}")
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--sweep is needed", "batch_size", "all"]),
        (["--sweep="], ["--sweep is needed"]),
        (["--sweep=batch_size,los"], ["batch_size", "Received: los"]),
        (["--sweep={tmp}/none.json"], ["none.json"]),
        (["--sweep={tmp}/broken.json"], ["broken.json must hold a sweep"]),
        (["--sweep={tmp}/folder.json"], ["folder.json"]),
        (["--sweep={tmp}/latin.json"], ["latin.json"]),
        (["--sweep={tmp}/rate.json"], ["rate=0-seed0: --rate must be"]),
        (["--sweep=labels"], ["fashion_mnist-seed0", "--sweep=ONE,OTHER"]),
        (["--sweep=fashion_mnist"], ["--data is needed", "fashion_mnist.json"]),
        (["--sweep=loss", "--data=digits"], ["--data=digits", "loss"]),
        (["--sweep=loss,{tmp}/loss.json"], ["different names"]),
        (["--sweep=loss", "--jobs=0"], ["jobs"]),
        (["--sweep=loss", "--out={tmp}/broken.json"], ["broken.json"]),
        (["--sweep=loss", "--out={tmp}/broken.json/below"], ["broken.json"]),
        (["--sweep=loss", "--date=digits"], ["date"]),
        (["loss"], ["--name=value", "loss"]),
    ],
)
def test_a_mistake_ends_with_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text('{"title": ')
    (tmp_path / "latin.json").write_bytes('{"title": "Größe"}'.encode("latin-1"))
    (tmp_path / "folder.json").mkdir()
    entry = {"at": 1, "flags": {"rate": 0}}
    (tmp_path / "rate.json").write_text(json.dumps({"title": "", "x": "", "runs": [entry]}))
    before = set(tmp_path.rglob("*"))
    line = script.mistake(capsys, "ablate", *(a.format(tmp=tmp_path) for a in arguments))
    for word in words:
        assert word in line
    assert set(tmp_path.rglob("*")) == before  # nothing was begun


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_let_the_runs_save(write, fake_module, tmp_path, number):
    out = tmp_path / "out"
    entries = [{"at": at, "flags": {"width": at, "endless": "yes"}} for at in (1, 2, 3)]
    path = write("one", runs=entries)
    program = (
        "import runpy, signal, sys; from trainers.ablations import sweeps; "
        # Which is ignored in what a shell has started in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sweeps.SCRIPTS['pretrain'] = ('fake_training', *sweeps.SCRIPTS['pretrain'][1:]); "
        f"sys.argv = ['ablate', '--sweep={path}', '--out={out}', '--jobs=2']; "
        "runpy.run_module('trainers.ablate', run_name='__main__', alter_sys=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        | {"PYTHONPATH": os.pathsep.join([str(fake_module), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a terminal makes one
    )
    deadline = time.monotonic() + 200
    while len(notes(out / "runs", "began")) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # to all of them, as a terminal does
    else:
        process.send_signal(number)
    try:
        output, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "The same command continues from here." in output
    assert output.count(": stopped\n") == 2
    assert errors == ""
    assert not notes(out / "runs", "hurried")
    assert len(notes(out / "runs", "saved")) == 2
    assert len(calls(out / "runs")) == 2  # the third was not begun
    assert "| 3 | 0 of 1 |\n" in (out / "one.md").read_text()  # what there is is told
