"""The page report.html of a run, and the features that TensorBoard's projector shows of it.

Both come last and from what the run's folder holds: a run without them is no less finished.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import shlex

import numpy as np
import tensorflow as tf

from keras_bt import data, plots
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.evaluation.features import inference_function, on_batches
from keras_bt.evaluation.report import Accuracies
from keras_bt.evaluation.whitening import Whitening, too_wide
from keras_bt.messages import first_line
from keras_bt.plots.pages import report
from keras_bt.workdir import read_record
from trainers.runs import closing_words, results
from trainers.runs.network_pictures import choose_queries, labels_or_reason, nearest_others
from trainers.runs.settings import PretrainingSettings

MOST_IMAGES = 2000  # of which features are shown: more are slow in the projector
_SIDE = 96  # of a picture in the page, in pixels
_BATCH = 256
_QUERIES, _NEIGHBORS = 8, 8
_CAPTIONS = {
    "views": "What the network saw: pairs of views of the same images",
    "correlation": "The cross-correlation of the two views' embeddings",
    "spectrum_features": "The spectrum of the features: a healthy one falls slowly",
    "spectrum_embeddings": "The spectrum of the embeddings",
    "features": "A map of the features, by t-SNE",
    "features_pca": "A map of the features, by principal components",
    "confusion": "What a linear probe takes for what",
}
# What the page shows itself.
_SHOWN_OTHERWISE = ("loss", "measures", "accuracies", "neighbours")
_FILES = {
    "summary.json": "the final figures",
    "config.json": "all settings, the images and the versions",
    "metrics.jsonl": "what was logged at every step",
    "backbone.keras": "the backbone, for fine-tuning: keras.models.load_model",
    "saved_model/1/": "the backbone with its preprocessing, for serving",
    "classifier.keras": "the classifier",
    "siamese.keras": "the network and its threshold",
    "plots/": "the pictures, in full size",
    "evaluation/": "what was measured later",
    "tensorboard/": "for tensorboard --logdir",
    "checkpoints/": "to continue from",
    "skipped_images.txt": "images that could not be read",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """A look through a backbone at some images.

    Attributes:
        features: float32 (n, d).
        pictures: uint8 (n, h, w, 3), cropped as for the network.
        names: n texts.
        labels: n names of classes, or None.
        classes: int64 (n,), zeros without labels.
        where: which images these are.
    """

    features: np.ndarray
    pictures: np.ndarray
    names: list
    labels: list | None
    classes: np.ndarray
    where: str


def look(job, backbone):
    """Returns a `Look` at up to 2,000 of the test images of a `Pretraining`, or else of all."""
    train, test, _ = labels_or_reason(job)
    source = test or job.test or job.train
    where = f"{source.role} ({source.num_examples:,} images)"
    if source is job.train:
        where = f"the {source.num_examples:,} training images"
    if source.num_examples > MOST_IMAGES:
        where = f"{MOST_IMAGES:,} images of {where}"
        source = source.sample(MOST_IMAGES, job.settings.seed)
    plain = data.normalization("none", source.channels)
    s = job.settings
    batches = data.evaluation_batches(source, s.image_size, _BATCH, s.resize, *plain, keys=True)
    spec = batches.element_spec[0]
    forward = on_batches(inference_function(backbone), spec)
    mean, std = (np.array(part, np.float32) for part in (job.mean, job.std))
    parts = []
    with data.reading(source):
        for images, labels, keys in batches:
            features = forward((images - mean) / std)
            parts.append((features, _pictures(images), labels.numpy(), source.names(keys.numpy())))
    features, pictures, labels, names = zip(*parts, strict=True)
    classes = np.concatenate(labels)
    return Look(
        np.concatenate(features),
        np.concatenate(pictures),
        [name for part in names for name in part],
        [train.class_names[number] for number in classes] if train else None,
        classes if train else np.zeros(len(classes), np.int64),
        where,
    )


def _pictures(images):
    height, width, channels = images.shape[1:]
    if channels != 3:  # the first three, or the first one in gray
        images = images[..., :3] if channels > 3 else tf.repeat(images[..., :1], 3, -1)
    if (longest := max(height, width)) > _SIDE:
        size = [max(1, round(side * _SIDE / longest)) for side in (height, width)]
        images = tf.image.resize(images, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(255 * images), 0, 255), tf.uint8).numpy()


def finish(job, backbone, words):
    """Writes the page and the projector's files of a run that has just finished.

    Prints a line about what fails: the run itself is written already. Without `--evaluate` no image
    is looked at.
    """
    run, seen = job.run, None
    if job.settings.evaluate:
        with _tolerated("Nearest neighbors and TensorBoard's projector", run):
            seen = look(job, backbone)
            # The projector seeks it where events are.
            content = seen.features, seen.pictures, seen.names, seen.labels
            plots.embedding_projector(run.tensorboard / "train", *content)
    with _tolerated(run.report, run):
        of_pretraining(run.report, job, job.settings.epochs, words, seen)


@contextlib.contextmanager
def _tolerated(what, run):
    try:
        yield
    except Exception as error:  # whatever it is, the run is finished
        print(
            f"{what} could not be written: {first_line(error)} For the page, try again: "
            f"python -m trainers.plot {shlex.quote(str(run.path))}"
        )


def of_pretraining(path, job, epochs, words, seen, pictures=None):
    """Writes the page of a pretraining run.

    Args:
        path: the file.
        job: `Pretraining`.
        epochs: how many are done.
        words: sentences about the accuracies.
        seen: a `Look`, or None.
        pictures: folder of the pictures, by default the run's.
    """
    run, s = job.run, job.settings
    metrics = read_metrics(run.metrics) if run.metrics.is_file() else []
    summary = run.read_summary() if run.summary.is_file() else {}
    of = f"{s.data}, {job.train.num_examples:,} images" if job.train.num_examples else s.data
    what = f"{job.objective.title} on {of}: {job.model.backbone.name}, projector {s.projector}"
    state = f"Trained for {s.epochs:,} epochs of {job.steps_per_epoch:,} steps"
    if not summary and epochs < s.epochs:
        state = f"Not finished: {epochs:,} of {s.epochs:,} epochs of {job.steps_per_epoch:,} steps"
    default, settings = PretrainingSettings().identity(), s.identity()
    differ = {n: value for n, value in settings.items() if value != default.get(n)}
    flags = s.as_flags(
        tuple(field.name for field in dataclasses.fields(s) if field.name not in differ)
    )
    write(
        path,
        run,
        metrics,
        pictures or run.plots,
        facts=[f"{what}.", f"{state}{_when(metrics)}."],
        words=[*_loss(job, metrics, summary), *words],
        measured_on=summary["measured_on"] if summary.get("accuracies") else "",
        settings={n: (str(v), str(default.get(n))) for n, v in settings.items()},
        command=shlex.join(["python", "-m", "trainers.pretrain", *flags]),
        neighbors=seen and neighbors(seen, s.seed),
    )


def _loss(job, metrics, summary):
    """Returns the first sentences about a finished run."""
    if not summary:
        return []
    steps = job.steps_per_epoch * job.settings.epochs
    lines = [m for m in metrics if "loss" in m]
    last = [m for m in lines[-1:] if m["step"] == steps]
    sentences = [closing_words.loss(job.run, last)]
    if not summary.get("accuracies"):
        sentences.append(f"Accuracy: {summary['measured_on']}.")
    return sentences


def _when(metrics):
    """Returns when the last line was logged, as the end of a sentence."""
    if not metrics or "time" not in metrics[-1]:
        return ""
    last = datetime.datetime.fromtimestamp(metrics[-1]["time"], datetime.UTC)
    return f", the last of them on {last:%Y-%m-%d at %H:%M} UTC"


def neighbors(seen, seed):
    """Returns some images of a `Look` with their nearest neighbors; None if there is one image."""
    n = len(seen.features)
    if n < 2:
        return None
    features, how = seen.features, "features"
    if not too_wide(features):
        features, how = Whitening.fit(features)(features), "whitened features"
    chosen = choose_queries(seen.classes, _QUERIES, seed)
    k = min(_NEIGHBORS, n - 1)
    similarities, found = nearest_others(features, chosen, k)
    labels = seen.labels
    return report.Neighbors(
        queries=seen.pictures[chosen],
        neighbors=seen.pictures[found],
        similarities=similarities,
        query_names=labels and [labels[number] for number in chosen],
        neighbor_names=labels and [[labels[number] for number in row] for row in found],
        where=f"by cosine of {how}, among {seen.where}",
    )


def words_of(job):
    """Returns the sentences about the accuracies of a finished run, from its summary."""
    if not job.run.summary.is_file():
        return []
    rows = job.run.read_summary().get("accuracies")
    train, test, _ = labels_or_reason(job)
    if not rows or train is None:
        return []
    fields = [field.name for field in dataclasses.fields(Accuracies)]
    accuracies = {
        name: Accuracies(**{field: row.get(field) for field in fields})
        for name, row in rows.items()
    }
    metrics = read_metrics(job.run.metrics) if job.run.metrics.is_file() else []
    sizes = job.model.embedding_dim, job.model.backbone.output_shape[-1]
    return closing_words.pretraining(accuracies, test.num_examples, metrics, *sizes)


def of_classifier(job, message):
    """Writes the page of a run that trained a classifier or a Siamese network.

    Args:
        job: `trainers.runs.classifying.ClassifierRun`, finished.
        message: what the terminal says at its end.

    Returns:
        A line for the terminal on where the page is, or why there is none.
    """
    run, s, subject = job.run, job.settings, job.subject
    try:
        metrics = read_metrics(run.metrics) if run.metrics.is_file() else []
        defaults = {field.name: field.default for field in dataclasses.fields(s)}
        differ = job.differences()
        start = "random weights" if getattr(s, "from_scratch", False) else subject.file
        what = f"trainers.{job.name} on {subject.data}: {subject.backbone.name} from {start}"
        write(
            run.report,
            run,
            metrics,
            run.plots,
            facts=[f"{what}.", f"Trained for {s.epochs:,} epochs{_when(metrics)}."],
            terminal=message.strip("\n"),
            settings={
                name: (str(value), str(defaults.get(name, "")) if name in differ else None)
                for name, value in sorted((s.identity() | subject.identity()).items())
            },
        )
    except Exception as error:  # whatever it is, the run is finished
        return f"{run.report} could not be written: {first_line(error)}"
    return f"All of this as a page, with curves: {run.report}"


def write(path, run, metrics, folder, **parts):
    """Writes a page with what all kinds of runs have.

    Args:
        path: the file.
        run: `keras_bt.workdir.Workdir`.
        metrics: what it logged.
        folder: of its pictures.
        **parts: fields of `keras_bt.plots.pages.report.Report`.
    """
    path = pathlib.Path(path)
    found = results.read(run) if parts.get("words") is not None else []
    columns = list(dict.fromkeys(result.of for result in found))
    figures = {}
    for result in found:
        row = figures.setdefault(result.name, ["–"] * len(columns))
        row[columns.index(result.of)] = str(result)
    captions = list(_CAPTIONS)
    pictures = sorted(
        (file for file in folder.glob("*.png") if file.stem not in _SHOWN_OTHERWISE),
        key=lambda file: (file.stem not in captions and 99) or captions.index(file.stem),
    )
    versions = read_record(run.config).get("versions", {})
    files = [(name, what) for name, what in _FILES.items() if _holds_anything(run.path / name)]
    report.write(
        path,
        report.Report(
            name=run.path.absolute().name,
            metrics=metrics,
            columns=columns,
            figures=figures,
            pictures=[(file, _CAPTIONS.get(file.stem, file.stem)) for file in pictures],
            files=[(os.path.relpath(run.path / n, path.parent), what) for n, what in files],
            about={"Versions": ", ".join(f"{n} {v}" for n, v in versions.items())},
            **parts,
        ),
    )


def _holds_anything(path):
    """Tells whether there is a file, or a folder that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists()
