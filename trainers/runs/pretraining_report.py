"""What a pretraining run leaves at its end: backbone, plots, SavedModel, accuracies, summary."""

import dataclasses
import math
import time

from keras_bt import data, plots, saved_model, workdir
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.evaluation import report
from keras_bt.evaluation.features import extract_features
from keras_bt.strategy import one_device
from trainers.runs import backbones, closing_words, exporting, results, run_page, skipped_images
from trainers.runs.labelled import labelled_halves
from trainers.runs.network_pictures import correlations

EVALUATION_BATCH = 256


def finish(job, started):
    """Writes backbone, plots, SavedModel and summary, and returns the closing message."""
    run = job.run
    # Measured is exactly what is exported: in float32, for one device.
    backbone = saved_model.plain_copy(job.model.backbone)
    workdir.save_model(backbone, run.backbone)
    metrics = metrics_of_steps(run)
    if any(math.isfinite(entry["loss"]) for entry in metrics):
        plots.loss_curve(run.plots / "loss.png", metrics)
    untrained = job.build(one_device())
    matrices = correlations({"untrained": untrained, "trained": job.model}, *job.first_views)
    plots.correlation(run.plots / "correlation.png", matrices)
    accuracies, where, images = None, "not measured (--noevaluate)", 0
    if job.settings.evaluate:
        accuracies, where, images = measure(job, untrained.backbone, backbone)

    skipped = skipped_images.write(run.path, *job.sources)
    seconds = time.monotonic() - started
    # A file that was cut ends with another step's.
    steps = job.steps_per_epoch * job.settings.epochs
    last = [entry for entry in metrics[-1:] if entry["step"] == steps]
    final = {name: finite_or_none(last, name) for name in ("loss", "excess")}
    floor = job.model.objective.floor(job.settings.batch_size, job.model.embedding_dim)
    speed = results.median_speed(metrics)
    rows = accuracies and {name: dataclasses.asdict(row) for name, row in accuracies.items()}
    summary = {
        **final,
        "floor": float(floor),
        "accuracies": rows,
        "measured_on": where,
        "images_per_second": speed,
        "seconds_of_last_call": round(seconds, 1),
        "skipped_images": sorted(line.split("\t")[1] for line in skipped),
    }
    export(job, backbone, summary)
    run.write_summary(summary)  # last: a run with a summary is finished
    words = ()
    if accuracies:
        logged = read_metrics(run.metrics) if run.metrics.exists() else []
        sizes = job.model.embedding_dim, backbone.output_shape[-1]
        words = closing_words.pretraining(accuracies, images, logged, *sizes)
    run_page.finish(job, backbone, words)
    message = closing_words.closing_message(run, last, accuracies, where, seconds, words)
    return "\n".join([message, *skipped_images.closing_lines(run.path, skipped)])


def export(job, backbone, summary):
    """Writes the SavedModel, unless an earlier call did before it was stopped."""
    if (job.run.saved_model / "1").exists():
        return
    image_size = job.settings.image_size
    exporting.export(
        backbone,
        job.run.backbone,
        job.run.saved_model,
        image_size,
        job.settings.resize or data.evaluation_resize(job.train, image_size),
        job.mean,
        job.std,
        card=saved_model.run_card(job.settings.identity(), summary),
        decoding=job.train.decoder.decoding,
    )


def measure(job, untrained, trained):
    """Measures the accuracies of raw pixels and both backbones.

    Returns:
        The accuracies, what they were measured on, and how many images that were; or None, why
        nothing can be measured, and 0.
    """
    train, test, where = labelled_halves(job.train, job.test, job.settings.seed)
    if train is None:
        return None, where, 0
    if train.multilabel:
        return None, "not measured: several labels per image (use trainers.linear_probe --fast)", 0
    image_size = job.settings.image_size
    backbones.switch_blocks_on(untrained)
    rows, mapped = {}, None
    for name, backbone in (
        (results.PIXELS, None),
        (results.UNTRAINED, untrained),
        (job.objective.title, trained),
    ):
        started = time.monotonic()
        print(f"Measuring {name} … ", end="", flush=True)
        parts = []
        for source in (train, test):
            if backbone is None:
                parts += data.raw_pixels(source)
            else:
                batches = data.evaluation_batches(
                    source, image_size, EVALUATION_BATCH, job.settings.resize, job.mean, job.std
                )
                parts += extract_features(backbone, batches)
        rows[name] = report.measure(*parts, seed=job.settings.seed)
        mapped = parts[2:]
        print(f"{time.monotonic() - started:.0f} s")
    plots.feature_map(
        job.run.plots / "features.png", *mapped, train.class_names, seed=job.settings.seed
    )
    return rows, where, len(mapped[1])


def metrics_of_steps(run):
    """Reads the lines of metrics.jsonl about training steps; none if the file has been removed."""
    if not run.metrics.exists():
        return []
    return [entry for entry in read_metrics(run.metrics) if "loss" in entry]


def finite_or_none(metrics, name):
    """Returns the last value of a metric, or None if it is unknown or not finite."""
    value = metrics[-1].get(name, math.nan) if metrics else math.nan
    return value if math.isfinite(value) else None
