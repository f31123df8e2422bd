"""How well measures that need no labels rank the runs of sweeps: a table of rank correlations."""

import dataclasses

import numpy as np

from keras_bt import files
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.workdir import Workdir
from trainers.ablations import results
from trainers.runs.objectives import PARTICULAR

EXCESS = "−excess of the loss"
# What is said to be the larger the better, of the names in metrics.jsonl.
SCORES = {
    "RankMe of the features": lambda m: m["feature_rankme"],
    "RankMe of the embeddings": lambda m: m["embedding_rankme"],
    "LiDAR of the features": lambda m: m["feature_lidar"],
    "LiDAR of the embeddings": lambda m: m["embedding_lidar"],
    "−α of the features": lambda m: -m["feature_alpha"],
    "−\\|α − 1\\|": lambda m: -abs(m["feature_alpha"] - 1),
    EXCESS: lambda m: -m["excess"],
}
ACCURACIES = ("few_labels", "probe")
# The loss and its floor depend on these flags, and on the width d of the embeddings.
OF_THE_LOSS = ("objective", "variant", "batch_size", *PARTICULAR)
LEAST_RUNS = 4  # three can be ranked in six ways only
DRAWS = 2000
FILE = "label_free.md"
TITLE = "Measures without labels: Spearman's ρ with an accuracy, and 95% of resampled runs"
NOTE = (
    "The excess is left out where the objective, its weights, the batch or the width of the "
    "embeddings differ; RankMe of the embeddings is at most that width."
)


@dataclasses.dataclass(frozen=True)
class Correlation:
    """A rank correlation over runs, and the central 95% of those of resampled runs.

    Attributes:
        rho: float, Spearman's ρ.
        low: float, 2.5% of the resampled ones lie below.
        high: float, 2.5% lie above.
    """

    rho: float
    low: float
    high: float

    def __str__(self):
        return f"{self.rho:.2f} ({self.low:.2f} to {self.high:.2f})"


def spearman(a, b):
    """Computes Spearman's ρ, the correlation of the ranks, along the last axis.

    Equal values share the mean of their ranks. NaN where all values of one are equal.

    >>> float(spearman(np.array([1, 2, 3, 4]), np.array([0, 1, 10, 5])))
    0.8
    """
    a, b = _ranks(a), _ranks(b)
    with np.errstate(invalid="ignore"):
        return np.mean(a * b, axis=-1) / np.sqrt(np.mean(a**2, axis=-1) * np.mean(b**2, axis=-1))


def correlate(scores, accuracies):
    """Correlates scores with accuracies over runs; None if these are too few, or all equal.

    The interval is the bootstrap's: runs are drawn with replacement, always the same `DRAWS` times.
    """
    scores, accuracies = np.asarray(scores), np.asarray(accuracies)
    if len(scores) < LEAST_RUNS or not np.isfinite(rho := spearman(scores, accuracies)):
        return None
    drawn = np.random.default_rng(0).integers(len(scores), size=(DRAWS, len(scores)))
    resampled = spearman(scores[drawn], accuracies[drawn])
    return Correlation(float(rho), *map(float, np.nanquantile(resampled, [0.025, 0.975])))


def measured(run):
    """Reads what the last look at a run found, a dict as in metrics.jsonl.

    None if nobody looked (`--monitor_every=0`), or a version that knew no LiDAR.
    """
    file = Workdir(run.folder).metrics
    lines = read_metrics(file) if file.is_file() else []
    looks = [line for line in lines if "feature_lidar" in line]
    if not looks:
        return None
    return [line for line in lines if "excess" in line][-1] | looks[-1]


def table(sweeps, accuracy):
    """Formats the correlations of all measures with one accuracy as a Markdown table.

    A column per sweep with its number of runs, and of several one of all together; None if nothing
    is known of any run. The excess is compared only among runs that minimize the same.
    """
    groups = {sweep.name: sweep.runs for sweep in sweeps}
    if len(sweeps) > 1:
        groups["all"] = [run for sweep in sweeps for run in sweep.runs]
    columns = {name: _known(runs, accuracy) for name, runs in groups.items()}
    if not any(columns.values()):
        return None
    lines = [["measure", *(f"{name} ({len(known)})" for name, known in columns.items())]]
    lines.append(["---", *["---:"] * len(columns)])
    for name, score in SCORES.items():
        cells = [name]
        for known in columns.values():
            if name == EXCESS and len({_minimized(run) for run, _, _ in known}) > 1:
                cells.append("–")
                continue
            pairs = [(score(m), value) for _, m, value in known if np.isfinite(score(m))]
            found = correlate(*np.reshape(pairs, (-1, 2)).T)
            cells.append("–" if found is None else str(found))
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write(folder, sweeps):
    """Writes the tables of all accuracies to a file; removes it if nothing is known.

    Sweeps that measure with different numbers of labels get tables of their own.

    Returns:
        str, what was written, or None.
    """
    parts = []
    for accuracy in ACCURACIES:
        groups = {}
        for sweep in sweeps:
            groups.setdefault(results.label(sweep, accuracy), []).append(sweep)
        for label, group in groups.items():
            if text := table(group, accuracy):
                parts.append(f"Against: {label}.\n\n{text}")
    if not parts:
        (folder / FILE).unlink(missing_ok=True)
        return None
    text = "\n\n".join([f"# {TITLE}", NOTE, *parts])
    with files.whole(folder / FILE) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
    return text


def _known(runs, accuracy):
    """Lists the finished runs, each once, with what was measured of them and their accuracy."""
    found = []
    for run in {run.folder: run for run in runs}.values():
        value = (run.measures() or {}).get(accuracy)
        if value is not None and (looked := measured(run)):
            found.append((run, looked, value))
    return found


def _minimized(run):
    """Returns the flags that say what a run minimizes; equal ones give comparable losses."""
    flags = run.settings
    width = flags.get("projector", "").rpartition("-")[2]
    return width, *(flags.get(name) for name in OF_THE_LOSS)


def _ranks(values):
    """Returns the centered ranks along the last axis."""
    below = np.sum(values[..., :, None] > values[..., None, :], axis=-1)
    equal = np.sum(values[..., :, None] == values[..., None, :], axis=-1)
    ranks = below + equal / 2
    return ranks - ranks.mean(axis=-1, keepdims=True)
