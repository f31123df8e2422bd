"""One run of a sweep: python -m trainers.ablations.run --workdir=DIR [flags of trainers.pretrain].

Trains as trainers.pretrain does, if wanted with another objective (--variant), and measures the
backbone into DIR/measured.json: nearest neighbors (k = 20), a linear probe with all labels, and
the mean over ten draws of one with --few_labels labels, as many of each class. With
--measure=untrained or =pixels nothing is trained, and the backbone as it starts, or the images
themselves, are measured instead. Run again, it continues where it stopped.
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
    "Objective, or projector: see trainers.ablations.variants.",
    module_name=pretrain.__name__,  # among the settings that a workdir keeps
)
flags.DEFINE_enum(
    "measure", "trained", ["trained", "untrained", "pixels"], "What to train and measure."
)
flags.DEFINE_integer("few_labels", 600, "Labels for the probe with few, of all classes.", 1)
MEASURED = "measured.json"
DRAWS = 10


def main():
    """Trains what is not trained yet, and measures it."""
    started = time.time()
    with command.mistakes:
        if not FLAGS.workdir:
            raise ValueError("--workdir is needed.")
        with command.quiet_start():
            from keras_bt import data, workdir
            from trainers.runs.labelled import labelled_halves

        train, test = data.open_source(FLAGS.data, FLAGS.data_dir)
        # The same images for all seeds, or their spread would be that of the images too.
        train, test, where = labelled_halves(train, test, seed=0)
        if train is None or train.multilabel:
            raise ValueError(
                f"A sweep needs images with one label each. Received: {FLAGS.data}, {where}."
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
    """Measures features by the three protocols.

    Args:
        train_features: float array (n, d).
        labels: int array (n,).
        test_features: float array (m, d).
        test_labels: int array (m,).

    Returns:
        dict of accuracies, 0 to 1; `few`, the number of few labels, and the deviation over their
        draws.
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
    """The classes by the name of the variant."""
    from trainers.ablations.variants import VARIANTS

    return VARIANTS


def features(train, test):
    """Features and labels of both sources, by the trained backbone or one that is not."""
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
