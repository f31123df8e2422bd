"""Nearest-neighbor accuracies of a backbone, behind `trainers.knn`."""

import contextlib
import dataclasses
import tempfile

import numpy as np

from keras_bt import messages
from keras_bt.evaluation.knn import knn_accuracies
from keras_bt.evaluation.report import columns
from keras_bt.evaluation.whitening import Whitening, too_wide
from trainers.runs import measuring
from trainers.runs.settings import KnnSettings

FIGURES_DEPEND_ON = ("k", "temperature", "seed", "raw_pixels")


def check(subject, ks):
    """Refuses what neighbors cannot classify, before features are extracted.

    Returns the numbers of neighbors: `ks`, or if that is the default those that there are.
    """
    train = subject.train
    if train.multilabel:
        raise ValueError(
            "Nearest neighbors need images with one label each. Received: "
            f"{subject.data}, whose images have several; use trainers.linear_probe --fast."
        )
    count = train.num_examples
    if max(ks) <= count:
        return ks
    if ks != KnnSettings().k:
        raise ValueError(
            "--k must be at most the number of training images. Received: "
            f"--k={max(ks)} for {count:,} training images of {subject.data}."
        )
    fitting = tuple(k for k in ks if k <= count) or (1,)
    print(f"There are {count:,} training images, so --k={','.join(map(str, fitting))}.")
    return fitting


def run(subject, settings, started):
    """Extracts features or reads those on disk, searches them and writes the accuracies.

    Returns the report for the terminal.

    Raises:
        ValueError: if images have several labels, a k exceeds the number of training images, or the
            results cannot be written.
    """
    differences = measuring.differences(subject, settings, FIGURES_DEPEND_ON)
    s = dataclasses.replace(settings, k=check(subject, settings.k))
    name = f"knn{measuring.suffix(differences)}.json"
    out = messages.check_writable("--out", s.out or subject.folder / "evaluation" / name)
    record = measuring.record(subject, s, FIGURES_DEPEND_ON)
    measuring.check_replaceable(out, record, "--out")
    print(subject)
    arrays = measuring.arrays(subject, s.raw_pixels, s.batch_size)
    found = {}
    for name, features in arrays.items():
        print(f"Nearest neighbors, {name}:")
        found[name] = knn_accuracies(*features, s.k, s.temperature, progress=True)
        if too_wide(features[0]):
            print(f"Not whitened: {name}, of {features[0].shape[1]:,} dimensions, takes minutes.")
            continue
        print(f"Nearest neighbors, {name}, whitened:")
        with whitened(*features, subject.cache) as features:
            found[f"{name}, whitened"] = knn_accuracies(
                *features, s.k, s.temperature, progress=True
            )
    train_features, labels, test_features, _ = arrays["backbone"]
    measuring.write(
        out,
        "trainers.knn",
        subject,
        record,
        differences,
        started,
        training_images=len(train_features),
        test_images=len(test_features),
        classes=len(set(labels.tolist())),
        features=train_features.shape[1],
        accuracies={
            name: {str(k): dataclasses.asdict(row) for k, row in rows.items()}
            for name, rows in found.items()
        },
    )
    cells = [["", "k", "top-1", "top-5"]]
    for name, rows in found.items():
        for k, row in rows.items():
            accuracies = (row.top1, row.top5)
            cells.append([name, str(k)])
            cells[-1] += ["–" if value is None else f"{100 * value:.2f}" for value in accuracies]
    lines = [f"\nAccuracy in percent on {subject.where}:\n", *columns(cells)]
    return "\n".join([*lines, f"\nWritten to {out}."])


@contextlib.contextmanager
def whitened(train_features, train_labels, test_features, test_labels, folder):
    """Yields the same arrays with whitened features, kept in files in `folder` until the end."""
    whitening = Whitening.fit(train_features)
    with tempfile.TemporaryFile(dir=folder) as train, tempfile.TemporaryFile(dir=folder) as test:
        parts = [
            _written(file, whitening, features)
            for file, features in ((train, train_features), (test, test_features))
        ]
        yield parts[0], train_labels, parts[1], test_labels


def _written(file, whitening, features):
    try:
        for part in whitening.parts(features):
            file.write(part.tobytes())
        file.flush()  # here, where a full disk is an error
    except OSError as error:
        error.filename = "whitened features, in the folder of features"
        raise
    return np.memmap(file, np.float32, "r", shape=(len(features), whitening.matrix.shape[1]))
