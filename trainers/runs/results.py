"""The figures that a run's folder holds, read back: those of its end, and of every measurement."""

import dataclasses
import math

import numpy as np

from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.evaluation.report import FEW, percent
from keras_bt.workdir import read_record

OURS, PIXELS, UNTRAINED = "backbone", "raw pixels", "untrained backbone"
_AT_THE_END = {
    "knn": "kNN, k = 20",
    "knn_whitened": "kNN on whitened features, k = 20",
    "probe": "linear probe, all labels",
    "few_labels": f"linear probe, {FEW} labels per class",
}


@dataclasses.dataclass(frozen=True)
class Result:
    """One accuracy.

    Attributes:
        name: protocol, and how its settings differ from the default ones.
        of: what was measured: "backbone", "raw pixels" or "untrained backbone".
        accuracy: 0 to 1.
        deviation: over draws of the labels, None where there was one.
    """

    name: str
    of: str
    accuracy: float
    deviation: float | None = None

    def __str__(self):
        """Formats it in percent."""
        text = percent(self.accuracy)
        return text if self.deviation is None else f"{text} ± {percent(self.deviation)}"


def read(run):
    """Reads all accuracies in a run's folder; one that is damaged, or not ours, is passed over.

    Args:
        run: `keras_bt.workdir.Workdir`.

    Returns:
        list of `Result`s: those of the run's end, then those in evaluation/, linear_probe*/ and
        finetune*/, by name.
    """
    files = [(run.summary, _of_summary)]
    files += [(file, _of_evaluation) for file in sorted(run.path.glob("evaluation/*.json"))]
    for kind in ("linear_probe", "finetune"):
        files += [(file, _of_classifier) for file in sorted(run.path.glob(f"{kind}*/summary.json"))]
    found = []
    for file, results_of in files:
        try:
            content = read_record(file)
        except OSError:
            continue
        except ValueError as error:
            print(f"Passing over a file of results. {error}")
            continue
        try:
            results = list(results_of(file, content))
            found += [result for result in results if math.isfinite(result.accuracy)]
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
    return found


def final(run):
    """Returns a run's last excess and its median speed in images/s, None where unknown."""
    lines = read_metrics(run.metrics) if run.metrics.is_file() else []
    excesses = [line["excess"] for line in lines if math.isfinite(line.get("excess", math.nan))]
    return (excesses[-1] if excesses else None), median_speed(lines)


def median_speed(lines):
    """Returns the median images/s of lines of metrics, None where unknown."""
    speeds = [line.get("images_per_second", math.nan) for line in lines]
    return float(np.nanmedian(speeds)) if np.isfinite(speeds).any() else None


def _of_summary(file, summary):
    for name, row in (summary["accuracies"] or {}).items():
        of = name if name in (PIXELS, UNTRAINED) else OURS
        for measure, said in _AT_THE_END.items():
            if row.get(measure) is not None:
                deviation = row.get(f"{measure}_deviation")
                yield Result(said, of, row[measure], deviation)


def _of_evaluation(file, content):
    if "accuracies" in content:
        # All that was measured with other numbers of neighbors tells them anyway.
        differs = _differs(file.stem, content, "knn", ("k", "raw_pixels"))
        for name, rows in content["accuracies"].items():
            of, white, _ = name.partition(", whitened")
            for k, row in rows.items():
                yield Result(f"trainers.knn, k = {k}{white}{differs}", of, row["top1"])
    elif "results" in content:
        differs = _differs(file.stem, content, "linear_probe_fast", ("raw_pixels",))
        for of, row in content["results"].items():
            name = f"trainers.linear_probe --fast{differs}"
            if "top1" in row:
                yield Result(name, of, row["top1"], row["top1_deviation"])
            else:
                yield Result(f"{name}, mean average precision", of, row["mean_average_precision"])


def _of_classifier(file, summary):
    folder = file.parent.name
    last = summary.get("last", summary)
    name = "trainers.finetune" if "last" in summary else "trainers.linear_probe"
    start = " --from_scratch" if summary["settings"].get("from_scratch") else ""
    stem = folder.removesuffix("_from_scratch")
    differs = _differs(stem, summary, "finetune" if "last" in summary else "linear_probe")
    yield Result(f"{name}{start}{differs}", OURS, last["top1"])


def _differs(stem, content, beginning, without=()):
    """Returns ", labels=600, seed=1", say; of a file of an earlier version, what its name tells."""
    if "differs_in" not in content:
        rest = stem.removeprefix(beginning).strip("_")
        return f", {rest}" if rest else ""
    parts = []
    for name, value in content["differs_in"].items():
        if name not in without:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            parts.append(f", {name}={text}")
    return "".join(parts)
