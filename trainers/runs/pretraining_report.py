"""What a pretraining run leaves at its end: backbone, plots, SavedModel, accuracies, summary."""

import dataclasses
import math
import time

import numpy as np
import tensorflow as tf

from keras_bt import data, plots, saved_model, workdir
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.evaluation import report
from keras_bt.evaluation.features import extract_features
from trainers.runs import backbones, skipped_images
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
    untrained = job.build(tf.distribute.get_strategy())
    matrices = correlations({"untrained": untrained, "trained": job.model}, *job.first_views)
    plots.correlation(run.plots / "correlation.png", matrices)
    accuracies, where = None, "not measured (--noevaluate)"
    if job.settings.evaluate:
        accuracies, where = measure(job, untrained.backbone, backbone)

    skipped = skipped_images.write(run.path, *job.sources)
    seconds = time.monotonic() - started
    final = {name: finite_or_none(metrics, name) for name in ("loss", "excess")}
    floor = job.model.objective.floor(job.settings.batch_size, job.model.embedding_dim)
    speeds = [m.get("images_per_second", math.nan) for m in metrics]
    speed = float(np.nanmedian(speeds)) if np.isfinite(speeds).any() else None
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
    workdir.write_json(run.summary, summary)  # last: a run with a summary is finished
    message = closing_message(run, final, accuracies, where, seconds)
    return "\n".join([message, *skipped_images.closing_lines(run.path, skipped)])


def export(job, backbone, summary):
    """Writes the SavedModel, unless an earlier call did before it was stopped."""
    if (job.run.saved_model / "1").exists():
        return
    image_size = job.settings.image_size
    saved_model.export_saved_model(
        backbone,
        job.run.saved_model,
        image_size,
        job.settings.resize or data.evaluation_resize(job.train, image_size),
        job.mean,
        job.std,
        card=saved_model.run_card(job.settings.identity(), summary),
        decoding=job.train.decoder.decoding,
    )


def measure(job, untrained, trained):
    """Measures the accuracies of raw pixels and both backbones, or says why it cannot."""
    train, test, where = labelled_halves(job.train, job.test, job.settings.seed)
    if train is None:
        return None, where
    if train.multilabel:
        return None, "not measured: several labels per image (use trainers.linear_probe --fast)"
    image_size = job.settings.image_size
    backbones.switch_blocks_on(untrained)
    rows, mapped = {}, None
    for name, backbone in (
        ("raw pixels", None),
        ("untrained backbone", untrained),
        ("Barlow Twins", trained),
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
    return rows, where


def metrics_of_steps(run):
    """Reads the lines of metrics.jsonl about training steps; none if the file has been removed."""
    if not run.metrics.exists():
        return []
    return [entry for entry in read_metrics(run.metrics) if "loss" in entry]


def finite_or_none(metrics, name):
    """Returns the last value of a metric, or None if it is unknown or not finite."""
    value = metrics[-1].get(name, math.nan) if metrics else math.nan
    return value if math.isfinite(value) else None


def closing_message(run, final, accuracies, where, seconds):
    """Returns the report that ends the run.

    `final` holds the last `loss` and `excess`, None where unknown; `where` says what was measured
    on, or why nothing was and `accuracies` is None.
    """
    lines = [
        "",
        f"Finished; this call took {seconds:.0f} s. "
        + (
            f"The loss is not known: {run.metrics} does not hold it."
            if None in final.values()
            else f"Loss {final['loss']:.2f}, {final['excess']:.2f} above the smallest possible."
        ),
    ]
    if accuracies:
        ours, pixels = accuracies["Barlow Twins"], accuracies["raw pixels"]
        untrained = accuracies["untrained backbone"]
        lines += [f"Accuracy in percent on {where}:", "", report.table(accuracies), ""]
        if ours.few_labels is not None:
            gain = 100 * (ours.few_labels - pixels.few_labels)
            over_untrained = 100 * (ours.few_labels - untrained.few_labels)
            lines.append(
                f"With 5 labels per class the pretrained backbone classifies "
                f"{100 * ours.few_labels:.1f}% of the images correctly, {abs(gain):.1f} points "
                f"{'more' if gain >= 0 else 'less'} than raw pixels and "
                f"{abs(over_untrained):.1f} {'more' if over_untrained >= 0 else 'less'} than "
                "before training."
            )
            if gain <= 0 or over_untrained <= 0:
                lines.append("It has not learned much yet: train longer, or check the views.")
    else:
        lines.append(f"Accuracy: {where}.")
    pictures = ", ".join(sorted(path.stem for path in run.plots.glob("*.png")))
    lines += [
        "",
        f"  {run.backbone}    the backbone, for fine-tuning: keras.models.load_model",
        f"  {run.saved_model / '1'}    the backbone with its preprocessing, for serving",
        f"  {run.plots}/    plots: {pictures}",
        f"  {run.summary}    these results;  {run.metrics}  those of every step",
        f"  tensorboard --logdir={run.tensorboard}",
    ]
    return "\n".join(lines)
