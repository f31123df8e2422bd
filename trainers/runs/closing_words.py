"""What the figures at the end of a run mean, in words: pure functions of numbers.

A difference is called one only if it exceeds the error of what it is a difference of: the deviation
over draws of labels where there are several, otherwise the standard error of an accuracy p on n
test images, √(p (1 − p) / n); of two figures the root of the sum of the squares.
"""

import math

from keras_bt.callbacks import advice
from keras_bt.evaluation import report
from keras_bt.evaluation.report import FEW, percent
from trainers.runs.results import PIXELS, UNTRAINED

# Name in `report.Accuracies` → what the sentences call it.
_MEASURES = {
    "knn": "kNN",
    "knn_whitened": "kNN on whitened features",
    "probe": "the linear probe with all labels",
    "few_labels": f"the linear probe with {FEW} labels per class",
}
_GOOD_ENOUGH = 0.99  # where no advice could gain much


def closing_message(run, metrics, accuracies, where, seconds, words=()):
    """Returns the report that ends a pretraining run.

    Args:
        run: its `keras_bt.workdir.Workdir`.
        metrics: the lines of metrics.jsonl with a loss, at least the last one.
        accuracies: see `pretraining`; None if nothing was measured.
        where: what was measured on, or why nothing was.
        seconds: duration of this call.
        words: what `pretraining` says about the accuracies.
    """
    lines = ["", f"Finished; this call took {seconds:.0f} s. {loss(run, metrics)}"]
    if accuracies:
        lines += [f"Accuracy in percent on {where}:", "", report.table(accuracies), "", *words]
    else:
        lines.append(f"Accuracy: {where}.")
    page = [f"  {run.report}    all of this as a page, with curves and nearest neighbors"]
    page = page if run.report.exists() else []
    pictures = ", ".join(sorted(path.stem for path in run.plots.glob("*.png")))
    return "\n".join(
        [
            *lines,
            "",
            f"  {run.backbone}    the backbone, for fine-tuning: keras.models.load_model",
            f"  {run.saved_model / '1'}    the backbone with its preprocessing, for serving",
            f"  {run.plots}/    plots: {pictures}",
            f"  {run.summary}    these results;  {run.metrics}  those of every step",
            *page,
            f"  tensorboard --logdir={run.tensorboard}",
        ]
    )


def loss(run, metrics):
    """Returns a sentence about the last loss; `run` and `metrics` as in `closing_message`."""
    last = metrics[-1] if metrics else {}
    if not {"loss", "excess"} <= last.keys():
        return f"The loss is not known: {run.metrics} does not hold it."
    if not math.isfinite(last["loss"]):
        return "The loss was not finite in the end."
    sentence = f"Loss {last['loss']:.2f}"
    if last["excess"] != last["loss"]:  # the floor is known, and not 0
        sentence += f", {last['excess']:.2f} above its lower bound"
    return f"{sentence}."


def error(ours, theirs, images, deviations=(None, None)):
    """Returns the error of the difference of two accuracies, 0 to 1.

    `deviations` are those over draws of the labels, None where there was one draw; `images` is the
    number of test images.
    """
    if None not in deviations:
        return math.hypot(*deviations)
    return math.hypot(*(math.sqrt(p * (1 - p) / images) for p in (ours, theirs)))


def pretraining(accuracies, images, metrics, dim, num_features):
    """Returns sentences about the accuracies of a finished run.

    Args:
        accuracies: dict from "raw pixels", "untrained backbone" and what the objective is called
            to `keras_bt.evaluation.report.Accuracies`.
        images: number of test images.
        metrics: the lines of metrics.jsonl, see `advice.next_step`.
        dim: width of the embedding.
        num_features: length of the backbone's features.
    """
    pixels, untrained = accuracies[PIXELS], accuracies[UNTRAINED]
    (ours,) = (one for name, one in accuracies.items() if name not in (PIXELS, UNTRAINED))
    found = {
        measure: [_verdict(measure, ours, other, images) for other in (pixels, untrained)]
        for measure in _MEASURES
        if None not in [getattr(one, measure, None) for one in (ours, pixels, untrained)]
    }
    lines = []
    if "few_labels" in found:
        beside = zip(found["few_labels"], ("raw pixels", "before training"), strict=True)
        lines.append(
            f"With {FEW} labels per class the pretrained backbone classifies "
            f"{100 * ours.few_labels:.1f}% of the images correctly, "
            + " and ".join(_more(*one, points=number == 0) for number, one in enumerate(beside))
            + "."
        )
    elif all(v > 0 for both in found.values() for v, _ in both):
        lines.append("By every measure it is ahead of raw pixels and of the untrained backbone.")
    for number, (name, other) in enumerate(((PIXELS, pixels), (UNTRAINED, untrained))):
        for sign, says in (
            (-1, f"it is behind {_the(name)}"),
            (0, f"it does not differ from {_the(name)} by more than the error"),
        ):
            pairs = [
                f"{_MEASURES[m]} ({percent(getattr(ours, m))} against {percent(getattr(other, m))})"
                for m, both in found.items()
                if both[number][0] == sign and m != "few_labels"
            ]
            if pairs:
                lines.append(f"Judged by {_listed(pairs)}, {says}.")
    low = [
        measure
        for measure, (beside_pixels, beside_untrained) in found.items()
        if min(beside_pixels[0], beside_untrained[0]) <= 0 and getattr(ours, measure) < _GOOD_ENOUGH
    ]
    if low:
        lines += filter(None, [advice.next_step(metrics, dim, num_features)])
    return lines


def _verdict(measure, ours, other, images):
    """Compares a measure: 1, 0 or −1 for ahead, within the error or behind; and the gain."""
    a, b = getattr(ours, measure), getattr(other, measure)
    deviations = (None, None)
    if measure == "few_labels":
        deviations = ours.few_labels_deviation, other.few_labels_deviation
    gain = a - b
    within = abs(gain) <= error(a, b, images, deviations)
    return (0 if within else int(math.copysign(1, gain))), gain


def _more(verdict, other, points):
    """Returns "13.1 points more than raw pixels", say."""
    sign, gain = verdict
    amount = f"{100 * abs(gain):.1f}{' points' if points else ''} {'more' if gain >= 0 else 'less'}"
    return f"{amount} than {other}{'' if sign else ' (within the deviation of the draws)'}"


def beside(ours, theirs, names, images, labels=None, deviations=(None, None)):
    """Returns a sentence that compares the accuracies of two rows of a table.

    Args:
        ours: accuracy 0 to 1.
        theirs: the same of the other row.
        names: what the two are called.
        images: number of test images.
        labels: number of labels that were drawn, None if all were taken.
        deviations: over several draws of the labels; None where there was one.
    """
    gain, one_draw = ours - theirs, labels is not None and None in deviations
    within = error(ours, theirs, images, deviations)
    if abs(gain) <= within:
        of = f"that {images:,} test images leave" if None in deviations else "of the draws"
        kind = "error" if None in deviations else "deviation"
        return (
            f"{names[0].capitalize()} and {names[1]} differ by {100 * gain:+.1f} points of top-1, "
            f"within the {kind} {of} (± {100 * within:.1f})."
        )
    says = f"{names[0].capitalize()} is {100 * abs(gain):.1f} points of top-1 "
    says += f"{'ahead of' if gain > 0 else 'behind'} {names[1]}"
    if one_draw:
        return (
            f"{says} with this draw of {labels:,} labels; other draws (--seed) may differ by more."
        )
    return f"{says}."


def _the(name):
    return f"the {name}" if name == UNTRAINED else name


def _listed(parts):
    """Joins as in a sentence: a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
