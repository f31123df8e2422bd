"""The report of `trainers.verify`: a table for the terminal, and pictures."""

import numpy as np

from keras_bt.evaluation.report import columns
from keras_bt.evaluation.verification import FALSE_ACCEPTS
from keras_bt.plots import verification as plots

_MISTAKES = 5  # of either kind in the picture


def draw(out, what, test, compared, chosen):
    """Draws ROC curves, histograms of distances and the worst mistakes beside the figures.

    Args:
        out: `pathlib.Path` of the figures.
        what: `trainers.runs.subject.Subject`.
        test: `trainers.runs.verifying.Judged`.
        compared: name of an embedding → distances, same and threshold of the test pairs.
        chosen: name of the embedding whose mistakes are drawn.

    Returns:
        list of the files.
    """
    paths = [out.with_name(f"{out.stem}_{kind}.png") for kind in ("roc", "distances", "mistakes")]
    on = f"{len(test.pairs):,} test pairs of {what.data}"
    curves = {name: (found, same) for name, (found, same, _) in compared.items()}
    plots.roc_curves(paths[0], curves, f"ROC curves, {on}")
    plots.distance_histograms(paths[1], compared, f"Distances, {on}")
    found, same, threshold = compared[chosen]
    order = np.argsort(found, kind="stable")
    far = _worst(test.pairs, [n for n in order[::-1] if same[n] and found[n] > threshold])
    near = _worst(test.pairs, [n for n in order if not same[n] and found[n] <= threshold])
    if not far and not near:
        paths[2].unlink(missing_ok=True)
        return paths[:2]
    wrong = test.pairs[np.array(far + near)]
    images = test.images(what, np.append(wrong.first, wrong.second))

    def shown(n):
        pair = [test.pairs.first[n], test.pairs.second[n]]
        classes = [] if test.labels is None else dict.fromkeys(test.labels[pair].tolist())
        names = ", ".join(test.source.class_names[number] for number in classes)
        return *(images[number] for number in pair), found[n], names

    title = f"The worst mistakes by {chosen} at {threshold:.3f}, of {on}"
    plots.worst_mistakes(paths[2], [*map(shown, far)], [*map(shown, near)], title)
    return paths


def _worst(pairs, ordered):
    """Returns the first pairs that have no image in common: their numbers."""
    chosen, seen = [], set()
    for n in ordered:
        images = {int(pairs.first[n]), int(pairs.second[n])}
        if len(chosen) < _MISTAKES and not images & seen:
            chosen.append(n)
            seen |= images
    return chosen


def table(found, where, validation_pairs):
    """Returns the lines of the tables.

    Args:
        found: name of an embedding → its figures, see `trainers.runs.verifying`.
        where: what they were measured on.
        validation_pairs: number of pairs by which thresholds were chosen.
    """
    rows = {name: row["test"] for name, row in found.items()}
    first = next(iter(rows.values()))
    head = ["", "AUC", "EER", *(f"true accepts at {100 * r:g}%" for r in FALSE_ACCEPTS), "accuracy"]
    cells = [head]
    for name, row in rows.items():
        accepts, deviations = row["true_accepts"], row["true_accepts_deviation"]
        cells.append(
            [
                name,
                f"{row['auc']:.4f} ± {row['auc_deviation']:.4f}",
                _percent(row["eer"], row["eer_deviation"]),
                *(_percent(accepts[rate], deviations[rate]) for rate in FALSE_ACCEPTS),
                _percent(row["accuracy"], row["accuracy_deviation"]),
            ]
        )
    lines = [
        f"\nOn {where}. In percent, of {first['same_pairs']:,} pairs of the same thing and "
        f"{first['different_pairs']:,} of different things; the threshold is that of "
        f"{validation_pairs:,} validation pairs:\n",
        *columns(cells),
    ]
    if None in first["true_accepts"].values():
        lines.append("– takes more pairs of different things: 100 for 1%, 1,000 for 0.1%.")
    return lines + _of_references(found)


def _of_references(found):
    cells = []
    for name, row in found.items():
        errors = {}
        for k, of_k in row["references"].items():
            for how in ("nearest",) if k == "1" else ("nearest", "mean"):
                test = of_k[how]["test"]
                errors[f"{how} of {k}"] = _percent(test["eer"], test["eer_deviation"])
        cells = cells or [["", *errors]]
        cells.append([name, *errors.values()])
    if len(cells[0]) == 1:
        return []
    return ["\nEqual error rate with references of each class:\n", *columns(cells)]


def _percent(value, deviation):
    return "–" if value is None else f"{100 * value:.1f} ± {100 * deviation:.1f}"
