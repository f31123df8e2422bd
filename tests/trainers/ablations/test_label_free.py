"""Rank correlations over made-up runs."""

import json
import math

import numpy as np
import pytest
import script
from scipy import stats

from trainers.ablations import label_free, sweeps


def test_spearman_is_that_of_scipy_ties_included():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 6, (2, 5, 12))
    expected = [stats.spearmanr(*pair).statistic for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(label_free.spearman(a, b), expected)
    assert math.isnan(label_free.spearman(np.ones(4), np.arange(4)))


def test_the_interval_is_that_of_resampled_runs():
    random = np.random.default_rng(1)
    a = random.standard_normal(40)
    b = a + random.standard_normal(40)
    found = label_free.correlate(a, b)
    draws = (random.integers(40, size=40) for _ in range(2000))
    resampled = [stats.spearmanr(a[draw], b[draw]).statistic for draw in draws]
    assert found.rho == stats.spearmanr(a, b).statistic
    assert [found.low, found.high] == pytest.approx(
        np.quantile(resampled, [0.025, 0.975]), abs=0.06
    )
    assert label_free.correlate(a, b) == found  # the same draws each time
    assert str(label_free.correlate(a[:4], a[:4])) == "1.00 (1.00 to 1.00)"
    assert label_free.correlate(a[:3], b[:3]) is None
    assert label_free.correlate(np.ones(9), b[:9]) is None


LOOK = ("feature_rankme", "embedding_rankme", "feature_lidar", "embedding_lidar", "feature_alpha")


def finished(run, probe, **look):
    """Writes what a run leaves; with measures, if it was looked at."""
    run.folder.mkdir(parents=True, exist_ok=True)
    accuracies = {"knn": 0.5, "probe": probe, "few_labels": probe - 0.1}
    (run.folder / "measured.json").write_text(json.dumps(accuracies))
    lines = [{"step": step, "epoch": 1, "loss": 9.0, "excess": 1 / step} for step in (1, 10)]
    if look:
        early = dict.fromkeys(look, 0.5)
        lines += [{"step": 10, "epoch": 1} | early, {"step": 11, "epoch": 2} | look]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "metrics.jsonl").write_text(text)


def test_the_report(tmp_path, capsys):
    paths = []
    for name, widths in (("one", range(1, 6)), ("two", range(5, 8))):
        runs = [{"at": width, "flags": {"width": width}} for width in widths]
        content = {"title": name, "x": "width", "runs": runs}
        content["flags"] = {"flagfile": "digits", "few_labels": 50}
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    read = [sweeps.read(str(path), None, tmp_path / "out" / "runs") for path in paths]
    one, two = (sweep.runs for sweep in read)  # which share a run
    for run in one:  # nobody looked
        finished(run, 0.5)
    stale = tmp_path / label_free.FILE
    stale.write_text("of runs that are gone")
    assert label_free.write(tmp_path, read) is None
    assert not stale.exists()
    for run in (*one, *two):  # wider ones are more accurate
        w = run.at
        look = {"feature_rankme": 9 * w, "embedding_rankme": -w, "feature_lidar": w % 5}
        look |= {"embedding_lidar": 3.0, "feature_alpha": 0.1 * w if w < 7 else None}
        finished(run, 0.7 + w / 100, **look)
    names = ",".join(map(str, paths))
    script.call("ablate", f"--sweep={names}", f"--out={tmp_path / 'out'}", "--report")
    text = (tmp_path / "out" / label_free.FILE).read_text()
    assert text.strip() in capsys.readouterr().out
    few, probe = text.split("Against: ")[1:]
    assert few.startswith("linear probe, 50 labels.\n")
    assert probe.startswith("linear probe, all labels.\n")
    lines = [[cell.strip() for cell in line.split(" | ")] for line in few.splitlines()[2:]]
    rows = {row[0].removeprefix("| "): [cell.strip(" |") for cell in row[1:]] for row in lines}
    assert rows["measure"] == ["one (5)", "two (3)", "all (7)"]
    best, worst = "1.00 (1.00 to 1.00)", "-1.00 (-1.00 to -1.00)"
    assert rows["RankMe of the features"] == [best, "–", best]  # of three runs nothing is said
    assert rows["RankMe of the embeddings"] == [worst, "–", worst]
    assert rows["LiDAR of the features"][0].startswith("0.00 (")
    assert rows["LiDAR of the embeddings"] == ["–"] * 3  # all the same
    assert rows["−α of the features"] == [worst, "–", worst]
    assert rows["−\\|α − 1\\|"] == [best, "–", best]
    assert rows["−excess of the loss"] == ["–"] * 3


@pytest.mark.parametrize(
    ("flag", "values", "comparable"),
    [
        ("projector", ["16-32", "64-32", "32-32", "8-32"], True),  # d is the same
        ("projector", ["32-16", "32-64", "32-32", "32-8"], False),
        ("rate", [0.1, 0.2, 0.3, 0.4], True),
        ("redundancy_weight", [0.1, 0.2, 0.3, 0.4], False),
        ("batch_size", [32, 64, 128, 256], False),
        ("objective", ["barlow_twins", "vicreg", "info_nce", "dcl"], False),
    ],
)
def test_the_excess_is_compared_where_it_can_be(flag, values, comparable, tmp_path):
    groups = []
    for name, few in (("one", 50), ("two", 60)):
        runs = [{"at": str(value), "flags": {flag: value}} for value in values]
        content = {"title": name, "x": flag, "runs": runs, "flags": {"few_labels": few}}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        groups.append(sweeps.read(str(tmp_path / f"{name}.json"), None, tmp_path / name))
        for place, run in enumerate(groups[-1].runs):
            look = dict.fromkeys(LOOK, 1.0) | {"excess": 0.5 + place}
            finished(run, 0.5 - place / 10, **look)
    text = label_free.write(tmp_path, groups)
    rows = [line for line in text.splitlines() if line.startswith("| −excess")]
    # 50 labels, 60 labels, and the probe on all, which both sweeps share.
    assert len(rows) == 3
    assert all(("| 1.00 (" in row) == comparable for row in rows)
    assert "60 labels" in text
    assert text.count("| all (8)") == 1
