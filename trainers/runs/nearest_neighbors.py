"""Nearest-neighbor accuracies of a backbone, behind `trainers.knn`."""

import dataclasses

from keras_bt import messages
from keras_bt.evaluation.knn import knn_accuracies
from keras_bt.evaluation.report import columns
from keras_bt.evaluation.whitening import Whitening, too_wide
from trainers.runs import measuring, on_disk
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
        found[f"{name}, whitened"] = knn_accuracies(
            *whitened(*features, subject.cache), s.k, s.temperature, progress=True
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


def whitened(train_features, train_labels, test_features, test_labels, folder):
    """Returns the same arrays with whitened features, kept in files in `folder` until they end."""
    whitening = Whitening.fit(train_features)
    width = whitening.matrix.shape[1]
    train, test = (
        on_disk.mapped(whitening.parts(features), width, folder)
        for features in (train_features, test_features)
    )
    return train, train_labels, test, test_labels
