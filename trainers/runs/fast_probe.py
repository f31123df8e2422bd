"""Probes on features kept on disk, behind `trainers.linear_probe --fast`."""

import dataclasses
import pathlib
import time

import numpy as np

from keras_bt import data, files, messages
from keras_bt.evaluation.linear import logistic_probe
from keras_bt.evaluation.report import columns, percent
from keras_bt.evaluation.svm import svm_probe
from trainers.runs import closing_words, measuring

FIGURES_DEPEND_ON = ("labels", "draws", "c", "seed", "raw_pixels")


def run(subject, settings, started):
    """Extracts features or reads those on disk, fits the probe and writes its accuracies.

    Writes `linear_probe_fast.json` and, if every image has one label, `linear_probe_fast.npz` with
    the labels and the backbone's predictions (of the first draw). With part of the labels, the file
    names contain how many, and whatever else differs from the defaults. Returns the report for the
    terminal.

    Raises:
        ValueError: if labels and settings do not go together.
    """
    train = subject.train
    if settings.draws > 1 and settings.labels == "100%":
        raise ValueError(
            "--draws needs a part of the labels, such as --labels=10%. Received: --labels=100%"
        )
    if train.multilabel and settings.labels != "100%":
        raise ValueError(
            "A part of the labels is drawn class by class, which needs one label per image. "
            f"Received: --labels={settings.labels} for {subject.data}."
        )
    if not train.multilabel:
        data.subset_indices(train.labels(), settings.labels, 0)  # before features are extracted
    part = "" if settings.labels == "100%" else f"_{settings.labels.replace('%', 'pct')}"
    differences = measuring.differences(subject, settings, FIGURES_DEPEND_ON)
    suffix = measuring.suffix({n: value for n, value in differences.items() if n != "labels"})
    folder = pathlib.Path(settings.workdir or subject.folder / "evaluation")
    path = messages.check_writable("--workdir", folder / f"linear_probe_fast{part}{suffix}.json")
    record = measuring.record(subject, settings, FIGURES_DEPEND_ON)
    measuring.check_replaceable(path, record, "--workdir")
    print(subject)
    folder.mkdir(parents=True, exist_ok=True)

    features = measuring.arrays(subject, settings.raw_pixels)
    measure, report = (several, several_report) if train.multilabel else (single, single_report)
    rows = {}
    for name, arrays in features.items():
        fitting = time.monotonic()
        rows[name] = measure(arrays, settings) | {"seconds": round(time.monotonic() - fitting, 1)}
    predictions = {name: row.pop("predictions", None) for name, row in rows.items()}["backbone"]
    if predictions is not None:
        with files.whole(path.with_suffix(".npz")) as partial:
            np.savez(partial, labels=features["backbone"][3], predictions=predictions)
    measuring.write(
        path,
        "trainers.linear_probe",
        subject,
        record,
        differences,
        started,
        test_images=len(features["backbone"][3]),
        results=rows,
    )
    return "\n".join([*report(rows, settings, subject), "", f"Written to {path}."])


def single(arrays, settings):
    """Fits logistic regressions, one per draw of the labels.

    `arrays` are features and labels to fit on, then those to measure on. Returns a dict of JSON
    values, accuracies 0 to 1, and the `predictions` of the first draw.
    """
    features, labels, test_features, test_labels = arrays
    results = []
    for draw in range(settings.draws):
        chosen = data.subset_indices(labels, settings.labels, (settings.seed, draw))
        results.append(
            logistic_probe(
                features[chosen],
                labels[chosen],
                test_features,
                test_labels,
                regularization=settings.c,
                seed=settings.seed,
            )
        )
    top1 = [result.top1 for result in results]
    top5 = [result.top5 for result in results]
    return {
        "images": len(chosen),
        "top1": float(np.mean(top1)),
        "top1_deviation": float(np.std(top1, ddof=1)) if len(results) > 1 else None,
        "top5": None if None in top5 else float(np.mean(top5)),
        "chosen_c": [result.chosen_c for result in results],
        "converged": all(result.converged for result in results),
        "top1_of_draws": top1,
        "predictions": results[0].predictions,
    }


def single_report(rows, settings, subject):
    """Formats the results of `single` as lines for the terminal."""
    images = next(iter(rows.values()))["images"]
    draws = f", mean of {settings.draws} draws" if settings.draws > 1 else ""
    lines = [
        "",
        f"Logistic regression on {images:,} labeled images (--labels={settings.labels}{draws})"
        f"; accuracy in percent on {subject.where}:",
        "",
    ]
    cells = [["", "top-1", "top-5", "C", "seconds"]]
    for name, row in rows.items():
        top1 = percent(row["top1"])
        if row["top1_deviation"] is not None:
            top1 += f" ± {percent(row['top1_deviation'])}"
        found = row["chosen_c"]
        c = f"{min(found):g}" + (f" to {max(found):g}" if min(found) < max(found) else "")
        cells.append([name, top1, percent(row["top5"]), c, f"{row['seconds']:.1f}"])
    head, *body = columns(cells)
    lines.append(head)
    for line, row in zip(body, rows.values(), strict=True):
        lines.append(line)
        if not row["converged"]:
            lines.append("  (not converged: slightly more may be possible)")
    if len(rows) == 2:
        accuracies = (row["top1"] for row in rows.values())
        deviations = tuple(row["top1_deviation"] for row in rows.values())
        drawn = None if settings.labels == "100%" else images
        count = subject.test.num_examples
        lines += ["", closing_words.beside(*accuracies, tuple(rows), count, drawn, deviations)]
    return lines


def several(arrays, settings):
    """Fits a support vector machine per class; arguments and result are those of `single`."""
    result = svm_probe(*arrays, settings.c, settings.seed, progress=True)
    return {"images": len(arrays[0]), **dataclasses.asdict(result)}


def several_report(rows, settings, subject):
    """Formats the results of `several` as lines for the terminal: each class, then the means."""
    lines = [
        "",
        "One linear support vector machine per class; average precision in percent, as defined by "
        f"VOC 2007, on {subject.where}:",
        "",
    ]
    cells = [["", *(heading for name in rows for heading in (name, "C"))]]
    for number, name in enumerate(subject.train.class_names):
        cells.append([name])
        for row in rows.values():
            c = row["chosen_c"][number]
            cells[-1].append(percent(row["average_precisions"][number]))
            cells[-1].append("–" if c is None else f"{c:g}")
    for name, key in (("mean", "mean_average_precision"), ("mean, area under curve", "mean_area")):
        cells.append([name, *(cell for row in rows.values() for cell in (percent(row[key]), ""))])
    lines += columns(cells)
    lines.append("Most published results are areas under the curve.")
    if any(None in row["average_precisions"] for row in rows.values()):
        lines.append("A dash means too few images of the class to fit or to measure.")
    return lines
