"""One run of a sweep: python -m trainers.ablations.run --workdir=DIR [flags of trainers.pretrain].

Pretrains as trainers.pretrain does, optionally with another objective or optimizer (--variant), and
measures the backbone. DIR/measured.json gets the accuracy of nearest neighbors (k = 20), plain and
whitened, of a linear probe with all labels, and of one with --few_labels labels, the same number
from each class, averaged over ten draws. With --measure=untrained or --measure=pixels nothing is
trained: the untrained backbone or the raw pixels are measured instead. The same command continues
an interrupted run.
"""

import dataclasses
import pathlib
import time

from trainers.cli import command
from trainers.pretrain import default_recipe
from trainers.runs.fields import free, setting
from trainers.runs.settings import LinearProbeSettings, PretrainingSettings

MEASURED = "measured.json"
DRAWS = 10
_OTHER_OBJECTIVES = ("invariance", "redundancy", "features")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationSettings(PretrainingSettings):
    """The flags: those of a run, which variant it trains, and what is measured of it."""

    variant: str = setting(
        "published",
        "Variant of the objective, projector or optimizer; see trainers.ablations.variants.",
        choices=("published", *_OTHER_OBJECTIVES, "unnormalized", "adam", "high_end", "averaged"),
    )
    measure: str = free(
        "trained",
        "Features to measure: of the trained or the untrained backbone, or raw pixels.",
        choices=("trained", "untrained", "pixels"),
    )
    few_labels: int = free(600, "Labels of the few-label probe, all classes together.", least=1)

    def __post_init__(self):
        if not self.workdir:
            raise ValueError("--workdir is needed.")
        super().__post_init__()
        if self.variant in _OTHER_OBJECTIVES and self.objective != "barlow_twins":
            raise ValueError(
                f"--variant={self.variant} is one of --objective=barlow_twins. "
                f"Received: --objective={self.objective}"
            )


def run(settings):
    """Trains the backbone, unless that is done or not wanted, and measures it."""
    started = time.monotonic()
    s = dataclasses.replace(settings, evaluate=False)
    with command.quiet_start():
        from keras_bt import data, workdir
        from trainers.ablations.variants import made
        from trainers.runs import opening, pretraining
        from trainers.runs.labelled import labelled_halves

    with command.mistakes:
        train, test = opening.open_data(s.data, s)
        # The same images for all seeds, or their spread would include that of the images.
        train, test, where = labelled_halves(train, test, seed=0)
        if train is None or train.multilabel:
            raise ValueError(
                f"A sweep requires images with one label each. Received: {s.data}, {where}."
            )
        if s.measure == "trained":
            pretraining.pretrain(s, *made(s))
        with data.reading(train, test):
            if s.measure == "pixels":
                parts = [*data.raw_pixels(train), *data.raw_pixels(test)]
            else:
                parts = features(s, train, test)
        found = measure(*parts, s.few_labels)
        folder = pathlib.Path(s.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        found |= {
            "measured_on": where,
            "seconds_of_last_call": round(time.monotonic() - started, 1),
        }
        workdir.write_record(folder / MEASURED, found)
    print(
        f"Measured on {where}: nearest neighbors {100 * found['knn']:.1f}%, linear probe "
        f"{100 * found['probe']:.1f}%, with {found['few']} labels {100 * found['few_labels']:.1f}%"
    )


def measure(train_features, labels, test_features, test_labels, few_labels=600):
    """Measures features by nearest neighbors and by linear probes with all and with few labels.

    Returns:
        dict of the accuracies `knn`, `knn_whitened` (None if that takes minutes), `probe` and
        `few_labels`, 0 to 1; `few`, the number of few labels; and `few_labels_deviation`, the
        standard deviation over their draws.
    """
    from keras_bt.evaluation.knn import knn_accuracy
    from keras_bt.evaluation.report import whitened_knn
    from trainers.runs import fast_probe

    arrays = (train_features, labels, test_features, test_labels)
    few = str(min(few_labels, len(labels)))
    all_labels = fast_probe.single(arrays, LinearProbeSettings(fast=True))
    few_labels = fast_probe.single(arrays, LinearProbeSettings(labels=few, draws=DRAWS, fast=True))
    k = min(20, len(labels))
    return {
        "knn": knn_accuracy(*arrays, k),
        "knn_whitened": whitened_knn(*arrays, k),
        "probe": all_labels["top1"],
        "few": few_labels["images"],
        "few_labels": few_labels["top1"],
        "few_labels_deviation": few_labels["top1_deviation"],
    }


def features(settings, train, test):
    """Extracts both sources' features and labels, by the trained or the untrained backbone."""
    import tensorflow as tf

    from keras_bt import data, workdir
    from keras_bt.evaluation.features import extract_features
    from trainers.ablations.variants import made
    from trainers.runs import backbones, pretraining

    run = workdir.Workdir(settings.workdir)
    if settings.measure == "trained":
        backbone = backbones.load(
            run.backbone, settings.image_size, train.channels, settings.normalize
        )
    else:
        job = pretraining.Pretraining(
            settings, train, test, tf.distribute.get_strategy(), run, *made(settings)
        )
        backbone = job.model.backbone
        backbones.switch_blocks_on(backbone)
    parts = []
    for source in (train, test):
        normalization = data.normalization(settings.normalize, source.channels)
        batches = data.evaluation_batches(source, settings.image_size, 256, None, *normalization)
        parts += extract_features(backbone, batches)
    return parts


def main():
    """Runs the command."""
    command.run(run, AblationSettings, default_recipe)


if __name__ == "__main__":
    main()
