"""Situations at the end of a run, and what is said about them; nothing is trained."""

import math
import types

import pytest

from trainers.runs import closing_words

DIM, FLOOR = 512, 10.0
HEALTHY = {
    "on_diagonal": 100.0,
    "embedding_spread": 0.95,
    "dead_features": 0.0,
    "dead_dimensions": 0.0,
}
HEALTHY |= {"diagonal_mean": 0.8, "diagonal_rms": 0.8, "off_diagonal_mean": 0.0}
HEALTHY |= {"off_diagonal_rms": 0.1, "fixed_excess": 50.0, "feature_rankme": 40.0}
HEALTHY |= {"embedding_rankme": 90.0}
FALLING = [400.0, 300.0, 200.0, 150.0, 100.0, 80.0, 60.0, 40.0]
FLAT = [400.0, 100.0, 60.0, 50.0, 40.0, 40.0, 40.0, 40.0]
STUCK = [450.0] * 8


def row(knn, probe, few, deviation=0.02, whitened=None):
    return types.SimpleNamespace(
        knn=knn,
        knn_whitened=whitened,
        probe=probe,
        few_labels=few,
        few_labels_deviation=None if few is None else deviation,
    )


PIXELS, UNTRAINED = row(0.8, 0.85, 0.7), row(0.6, 0.7, 0.5)
LOW = row(0.55, 0.9, 0.75)


def log(excesses, knn=(), **last):
    lines = [
        {"step": n, "epoch": n, "loss": FLOOR + value, "excess": value, **HEALTHY}
        for n, value in enumerate(excesses, start=1)
    ]
    for line, value in zip(lines, knn, strict=False):
        line["knn_accuracy"] = value
    lines[-1] |= last
    return lines


@pytest.mark.parametrize(
    ("ours", "metrics", "expected", "absent"),
    [
        pytest.param(
            row(0.97, 0.97, 0.954),
            FALLING,
            [
                "classifies 95.4% of the images correctly, 25.4 points more than raw pixels and "
                "45.4 more than before training."
            ],
            ["Judged", "train longer", "deviation"],
            id="ahead of both by everything",
        ),
        pytest.param(
            row(0.97, 0.97, 0.71),
            FALLING,
            ["1.0 points more than raw pixels (within the deviation of the draws) and 21.0 more"],
            ["Judged", "less"],
            id="within the deviation of the draws",
        ),
        pytest.param(
            row(0.97, 0.97, None),
            FALLING,
            ["By every measure it is ahead of raw pixels and of the untrained backbone."],
            ["Judged", "train longer"],
            id="too few labels per class",
        ),
        pytest.param(
            LOW,
            FALLING,
            [
                "Judged by kNN (55.0 against 80.0), it is behind raw pixels.",
                "Judged by kNN (55.0 against 60.0), it is behind the untrained backbone.",
                "still falling (its excess by 44% in the last quarter",
                "train longer",
            ],
            ["views"],
            id="kNN behind, the loss still falls",
        ),
        pytest.param(
            row(0.61, 0.69, 0.75),
            FLAT,
            [
                "Judged by kNN (61.0 against 80.0) and the linear probe with all labels (69.0 "
                "against 85.0), it is behind raw pixels.",
                "(61.0 against 60.0) and the linear probe with all labels (69.0 against 70.0), it "
                "does not differ from the untrained backbone by more than the error.",
                "no longer falls",
                "try other views",
            ],
            ["train longer", "is behind the untrained"],
            id="within the error of 500 images, the loss stands",
        ),
        pytest.param(
            row(0.97, 0.97, 0.954, whitened=0.5),
            FLAT,
            ["Judged by kNN on whitened features (50.0 against 80.0), it is behind raw pixels."],
            [],
            id="whitened kNN alone is behind",
        ),
        pytest.param(
            row(0.97, 0.97, 0.954, whitened=0.6),
            FLAT,
            ["classifies 95.4%"],
            ["whitened"],
            id="pixels are too wide to be whitened",
        ),
        (LOW, STUCK, ["stands still 450 above", "another learning rate, weaker views"], ["longer"]),
        (LOW, log(FALLING, loss=math.nan), ["was not finite", "lower learning rate"], ["falling"]),
        (LOW, log(FALLING, embedding_spread=1e-4), ["embeddings have collapsed"], ["falling"]),
        (LOW, log(FALLING, dead_features=200.0), ["200 of 256 features", "dead"], ["falling"]),
        (
            LOW,
            log(FALLING, knn=(0.5, 0.7, 0.68, 0.6)),
            ["reached 70.0% after epoch 2 and was at 60.0%", "stop earlier"],
            ["falling"],
        ),
        (LOW, log(FALLING, knn=(0.5, 0.55, 0.54)), ["still falling"], ["stop earlier"]),
        (LOW, FALLING[:3], ["too short", "train longer"], []),
        (LOW, [], ["Judged"], ["loss", "longer"]),
        pytest.param(
            row(0.995, 0.995, 0.99),
            FLAT,
            ["99.0%"],
            ["views"],
            id="nothing to gain",
        ),
    ],
)
def test_words(ours, metrics, expected, absent):
    pixels, untrained = PIXELS, UNTRAINED
    if ours.knn_whitened is not None:
        of_pixels = 0.8 if ours.knn_whitened == 0.5 else None
        pixels, untrained = (row(0.8, 0.85, 0.7, whitened=w) for w in (of_pixels, 0.3))
    if ours.few_labels is None:
        pixels, untrained = row(0.8, 0.85, None), row(0.6, 0.7, None)
    if ours.knn > 0.99:
        pixels = row(0.994, 0.996, 0.985)
    accuracies = {
        "raw pixels": pixels,
        "untrained backbone": untrained,
        "Barlow Twins": ours,
    }
    if metrics and not isinstance(metrics[0], dict):
        metrics = log(metrics)
    lines = closing_words.pretraining(accuracies, 500, metrics, DIM, 256)
    said = "\n".join(lines)
    assert "\n\n" not in said
    for words in expected:
        assert words in said
    for words in absent:
        assert words not in said


@pytest.mark.parametrize(
    ("ours", "theirs", "labels", "deviations", "expected"),
    [
        (0.62, 0.638, 100, (None, None), "differ by -1.8 points of top-1, within the error that"),
        (0.52, 0.638, 100, (None, None), "is 11.8 points of top-1 behind from scratch with this"),
        (0.72, 0.638, 100, (None, None), "8.2 points of top-1 ahead of from scratch with this dr"),
        (0.72, 0.638, None, (None, None), "8.2 points of top-1 ahead of from scratch."),
        (0.60, 0.638, 100, (0.03, 0.03), "-3.8 points of top-1, within the deviation of the draws"),
        (0.60, 0.668, 100, (0.03, 0.03), "is 6.8 points of top-1 behind from scratch."),
    ],
)
def test_two_rows(ours, theirs, labels, deviations, expected):
    names = ("pretrained", "from scratch")
    said = closing_words.beside(ours, theirs, names, 500, labels, deviations)
    assert expected in said
    assert "harm" not in said
