"""Figures in a run's folder, read back and put side by side; nothing is trained."""

import json

import pytest

from keras_bt.workdir import Workdir
from trainers import plot
from trainers.runs import comparing, results

ROW = {"knn": 0.9, "probe": 0.8, "few_labels": 0.7, "few_labels_deviation": 0.02}
KNN = {"top1": 0.91, "top5": 0.99}
FAST = {"top1": 0.75, "top1_deviation": 0.03}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "a", epochs=3)


def make(folder, **settings):
    settings = {"data": "digits", "image_size": 8, "resize": None, **settings}
    write(folder / "config.json", {"settings": settings, "images": {}})
    lines = [{"step": n, "loss": 9.0, "excess": 5.0 / n, "images_per_second": 1e3} for n in (1, 2)]
    write(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return Workdir(folder)


def measured(run):
    """Writes what every command leaves."""
    write(run.summary, {"accuracies": {"Barlow Twins": ROW, "raw pixels": ROW | {"knn": 0.5}}})
    folder = run.path / "evaluation"
    knn = {"accuracies": {"backbone": {"20": KNN}, "raw pixels": {"20": KNN | {"top1": 0.6}}}}
    write(folder / "knn.json", knn)  # of an earlier version
    knn["accuracies"]["backbone, whitened"] = {"20": KNN | {"top1": 0.93}}
    other = {"data": "folder:OTHER", "k": [20], "raw_pixels": True}
    write(folder / "knn_data=folder_OTHER.json", knn | {"differs_in": other})
    few = {"differs_in": {"labels": "100", "draws": 3}, "results": {"backbone": FAST}}
    write(folder / "linear_probe_fast_100_draws=3.json", few)
    voc = {"differs_in": {}, "results": {"backbone": {"mean_average_precision": 0.4}}}
    write(folder / "linear_probe_fast.json", voc)
    for name, scratch in (("finetune_600", False), ("finetune_600_from_scratch", True)):
        settings = {"from_scratch": scratch}
        last = {"differs_in": {"labels": "600"}, "last": {"top1": 0.66}, "settings": settings}
        write(run.path / name / "summary.json", last)
    write(run.path / "linear_probe_1pct" / "summary.json", {"top1": 0.55, "settings": {}})
    for name, content in (
        ("cut", "{"),
        ("other", {"a": 1}),
        ("list", []),
        ("numbers", {"results": 3}),
    ):
        write(folder / f"{name}.json", content)


def test_every_result_says_how_it_differs(run):
    assert results.read(run) == []
    measured(run)
    found = {(r.name, r.of): str(r) for r in results.read(run)}
    assert found == {
        ("kNN, k = 20", "backbone"): "90.0",
        ("linear probe, all labels", "backbone"): "80.0",
        ("linear probe, 5 labels per class", "backbone"): "70.0 ± 2.0",
        ("kNN, k = 20", "raw pixels"): "50.0",
        ("linear probe, all labels", "raw pixels"): "80.0",
        ("linear probe, 5 labels per class", "raw pixels"): "70.0 ± 2.0",
        ("trainers.knn, k = 20", "backbone"): "91.0",
        ("trainers.knn, k = 20", "raw pixels"): "60.0",
        ("trainers.knn, k = 20, data=folder:OTHER", "backbone"): "91.0",
        ("trainers.knn, k = 20, data=folder:OTHER", "raw pixels"): "60.0",
        ("trainers.knn, k = 20, whitened, data=folder:OTHER", "backbone"): "93.0",
        ("trainers.linear_probe --fast, labels=100, draws=3", "backbone"): "75.0 ± 3.0",
        ("trainers.linear_probe --fast, mean average precision", "backbone"): "40.0",
        ("trainers.linear_probe, 1pct", "backbone"): "55.0",
        ("trainers.finetune, labels=600", "backbone"): "66.0",
        ("trainers.finetune --from_scratch, labels=600", "backbone"): "66.0",
    }


def test_runs_side_by_side(run, tmp_path):
    measured(run)
    other = make(tmp_path / "b", epochs=5, rate=0.1)
    other.metrics.unlink()  # unfinished, and its log is gone
    figures, settings = comparing.table({"a": run, "b": other})
    assert settings == {"epochs": ["3", "5"], "rate": ["–", "0.1"]}
    several = make(tmp_path / "c", vicreg_weights=[25, 25, 1], image_size=[8, 9])
    assert comparing.table({"a": run, "c": several})[1] == {
        "epochs": ["3", "–"],
        "image_size": ["8", "8x9"],
        "vicreg_weights": ["–", "25,25,1"],
    }
    assert figures["loss above the floor"] == ["2.50", "–"]
    assert figures["linear probe, 5 labels per class"] == ["70.0 ± 2.0", "–"]
    assert figures["trainers.finetune, labels=600"] == ["66.0", "–"]
    assert figures["images/s"] == ["1,000", "–"]
    lines = comparing.as_text(["a", "b"], figures, settings).splitlines()
    assert "epochs" in lines[-2]
    assert lines[-1].split() == ["rate", "–", "0.1"]
    assert len({len(line) for line in lines if line.endswith(("–", "5", "0.1"))}) == 1
    # The same settings are left out.
    assert comparing.table({"a": run, "b": run})[1] == {}


def test_all_accuracies_of_a_run_are_drawn(run, tmp_path, capsys):
    measured(run)
    plot.draw_accuracies(tmp_path / "plots", run)
    *passed_over, last = capsys.readouterr().out.splitlines()
    assert last == f"{tmp_path / 'plots' / 'accuracies.png'}"
    assert len(passed_over) == 3  # which are no results of ours
    assert "cut.json is damaged: it is not JSON" in passed_over[0]
    assert (tmp_path / "plots" / "accuracies.png").stat().st_size > 1000
