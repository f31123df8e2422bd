"""One run of a sweep: python -m trainers.ablations.run --workdir=DIR [flags of trainers.pretrain].

Pretrains as trainers.pretrain does, optionally with another objective (--variant), and measures the
backbone. DIR/measured.json gets the accuracy of nearest neighbors (k = 20), of a linear probe with
all labels, and of one with --few_labels labels, the same number from each class, averaged over ten
draws. With --measure=untrained or --measure=pixels nothing is trained: the untrained backbone or
the raw pixels are measured instead. The same command continues an interrupted run.
"""

import pathlib
import time

from absl import flags

from trainers import pretrain
from trainers.cli import command

FLAGS = flags.FLAGS

flags.DEFINE_enum(
    "variant",
    "published",
    ["published", "invariance", "redundancy", "features", "unnormalised"],
    "Variant of the objective or projector; see trainers.ablations.variants.",
    module_name=pretrain.__name__,  # so that it is among the settings that a workdir keeps
)
flags.DEFINE_enum(
    "measure",
    "trained",
    ["trained", "untrained", "pixels"],
    "Features to measure: of the trained or the untrained backbone, or raw pixels.",
)
flags.DEFINE_integer(
    "few_labels", 600, "Labels of the few-label probe, all classes together.", lower_bound=1
)
MEASURED = "measured.json"
DRAWS = 10


def main():
    """Trains the backbone, unless that is done or not wanted, and measures it."""
    started = time.time()
    with command.mistakes:
        if not FLAGS.workdir:
            raise ValueError("--workdir is needed.")
        with command.quiet_start():
            from keras_bt import data, workdir
            from trainers.runs.labelled import labelled_halves

        train, test = data.open_source(FLAGS.data, FLAGS.data_dir)
        # The same images for all seeds, or their spread would include that of the images.
        train, test, where = labelled_halves(train, test, seed=0)
        if train is None or train.multilabel:
            raise ValueError(
                f"A sweep requires images with one label each. Received: {FLAGS.data}, {where}."
            )
    FLAGS.evaluate = False
    if FLAGS.measure == "trained":
        pretrain.main(lambda: variants()[FLAGS.variant])
    with command.mistakes:
        with data.reading(train, test):
            if FLAGS.measure == "pixels":
                parts = [*data.raw_pixels(train), *data.raw_pixels(test)]
            else:
                parts = features(train, test)
        found = measure(*parts)
        folder = pathlib.Path(FLAGS.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        found |= {"measured_on": where, "seconds_of_last_call": round(time.time() - started, 1)}
        workdir.write_json(folder / MEASURED, found)
    print(
        f"Measured on {where}: nearest neighbors {100 * found['knn']:.1f}%, linear probe "
        f"{100 * found['probe']:.1f}%, with {found['few']} labels {100 * found['few_labels']:.1f}%"
    )


def measure(train_features, labels, test_features, test_labels):
    """Measures features by nearest neighbors and by linear probes with all and with few labels.

    Args:
        train_features: float array (n, d).
        labels: int array (n,).
        test_features: float array (m, d).
        test_labels: int array (m,).

    Returns:
        dict of the accuracies `knn`, `probe` and `few_labels`, 0 to 1; `few`, the number of few
        labels; and `few_labels_deviation`, the standard deviation over their draws.
    """
    from keras_bt.evaluation.knn import knn_accuracy
    from trainers.runs import fast_probe

    arrays = (train_features, labels, test_features, test_labels)
    few, draws = str(min(FLAGS.few_labels, len(labels))), {"draws": DRAWS, "seed": 0}
    all_labels = fast_probe.single(arrays, {"labels": "100%", "draws": 1, "seed": 0})
    few_labels = fast_probe.single(arrays, {"labels": few, **draws})
    return {
        "knn": knn_accuracy(*arrays, k=min(20, len(labels))),
        "probe": all_labels["top1"],
        "few": few_labels["images"],
        "few_labels": few_labels["top1"],
        "few_labels_deviation": few_labels["top1_deviation"],
    }


def variants():
    """Returns the classes by the names of their variants."""
    from trainers.ablations.variants import VARIANTS

    return VARIANTS


def features(train, test):
    """Extracts both sources' features and labels, by the trained or the untrained backbone."""
    import tensorflow as tf

    from keras_bt import data, workdir
    from keras_bt.evaluation.features import extract_features
    from trainers.runs import backbones

    run = workdir.Workdir(FLAGS.workdir)
    if FLAGS.measure == "trained":
        backbone = backbones.load(run.backbone, FLAGS.image_size)
    else:
        settings = pretrain.read_settings()
        job = variants()[FLAGS.variant](settings, train, test, tf.distribute.get_strategy(), run)
        backbone = job.model.backbone
        backbones.switch_blocks_on(backbone)
    parts = []
    for source in (train, test):
        batches = data.evaluation_batches(source, FLAGS.image_size, 256)
        parts += extract_features(backbone, batches)
    return parts


if __name__ == "__main__":
    command.run(main, pretrain.default_recipe)
