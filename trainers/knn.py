"""Measures a backbone by its nearest neighbors: python -m trainers.knn --backbone=RUN.

Nothing is trained: an image gets the class that most of its k nearest training images have, by
the cosine similarity of their features, each vote weighted by exp(similarity / temperature) (Wu et
al. 2018, arXiv 1805.01978, section 3.4). One search serves all k.

Memory, beside Keras and TensorFlow themselves (about 1 GB): features are kept on disk and mapped
into memory, where the system keeps of them what it has room for. The search needs 0.25 GB and the
votes at most 0.6 GB for 50,000 queries of 1000 classes with k = 200, however many training images
there are: see `keras_bt.evaluation.neighbours` and `keras_bt.evaluation.knn`, which state the
formulas, and `benchmarks.knn`, which measures. `--raw_pixels` holds the pixels of all images in
memory as well: 12 kB for each image, 16 GB for ImageNet.
"""

import os
import pathlib
import shlex
import sys
import time

from absl import flags

from trainers.cli import command, subject

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(subject)  # so that --help lists them

flags.DEFINE_list("k", ["20", "200"], "Numbers of neighbors, with commas between them.")
flags.DEFINE_float("temperature", 0.07, "The lower, the more the nearest neighbors count.")
flags.DEFINE_integer("batch_size", 256, "Images per batch when features are extracted.", 1)
flags.DEFINE_bool("raw_pixels", False, "Whether to measure the pixels themselves as well.")
flags.DEFINE_string(
    "out", None, "Where to write the figures. Default: evaluation/knn.json beside the backbone."
)


def main():
    """Extracts features, searches, and writes and prints the accuracies."""
    started = time.time()
    with command.mistakes:
        ks = read_ks(FLAGS.k)
        if not 0 < FLAGS.temperature < float("inf"):
            raise ValueError(
                f"temperature must be a number above 0. Received: --temperature={FLAGS.temperature}"
            )
        # Imported when the flags are known to be right: TensorFlow takes seconds.
        with command.quiet_start():
            from keras_bt import data, workdir
            from keras_bt.evaluation.knn import knn_accuracies

        measured = subject.read()
        train, test = measured.train, measured.test
        check(ks, train, measured.data)
        out = writable(FLAGS.out or measured.folder / "evaluation" / "knn.json")
        print(measured)

        def accuracies_of(train_features, test_features, name):
            print(f"Neighbors by {name}:")
            return knn_accuracies(
                *train_features, *test_features, ks, FLAGS.temperature, progress=True
            )

        features = [
            measured.features(source, name, FLAGS.batch_size)
            for source, name in ((train, "training"), (test, "test"))
        ]
        results = {"backbone": accuracies_of(*features, "the backbone's features")}
        if FLAGS.raw_pixels:
            with data.reading(train, test):
                pixels = data.raw_pixels(train), data.raw_pixels(test)
            results["raw pixels"] = accuracies_of(*pixels, "raw pixels")

        (train_features, labels), (test_features, _) = features
        workdir.write_json(
            out,
            {
                "command": shlex.join(["python", "-m", "trainers.knn", *sys.argv[1:]]),
                "backbone": str(measured.file),
                "data": measured.data,
                "measured_on": measured.where,
                "training_images": len(train_features),
                "test_images": len(test_features),
                "classes": len(set(labels.tolist())),
                "features": train_features.shape[1],
                "settings": {
                    "k": ks,
                    "temperature": FLAGS.temperature,
                    "image_size": measured.image_size,
                    "resize": measured.resize,
                    "seed": FLAGS.seed,
                },
                "accuracies": {
                    name: {
                        str(k): {"top1": found.top1, "top5": found.top5}
                        for k, found in accuracies.items()
                    }
                    for name, accuracies in results.items()
                },
                "seconds": round(time.time() - started, 1),
            },
        )
    print(f"\nAccuracy in percent on {measured.where}:\n\n{table(results)}\n\nWritten to {out}.")


def read_ks(texts):
    """Numbers of neighbors: texts → list of whole numbers from 1, each once, in their order."""
    given = ",".join(texts)
    try:
        ks = list(dict.fromkeys(int(text) for text in texts))
    except ValueError:
        ks = []
    if not ks or min(ks) < 1:
        raise ValueError(f"k must be whole numbers from 1, such as 20,200. Received: --k={given}")
    return ks


def writable(path):
    """Makes the folder of a file; an error now is better than one after hours."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"out must be a file that can be written. Received: --out={path}")
    return path


def check(ks, train, name):
    """Refuses, before features are extracted, what cannot be measured by neighbors."""
    if getattr(train, "multilabel", False):
        raise ValueError(
            "For neighbors every image must have one class. "
            f"Received: {name}, whose images have several; use trainers.linear_probe."
        )
    if max(ks) > train.num_examples:
        raise ValueError(
            "k must be at most the number of training images. "
            f"Received: --k={max(ks)} for {train.num_examples:,} training images of {name}."
        )


def table(results):
    """Formats a dict from name to the dict of `knn_accuracies`, in percent."""
    lines = [f"{'':12}{'k':>6}{'top-1':>9}{'top-5':>9}"]
    for name, accuracies in results.items():
        for k, found in accuracies.items():
            top5 = "–" if found.top5 is None else f"{100 * found.top5:.2f}"
            lines.append(f"{name:12}{k:6}{100 * found.top1:9.2f}{top5:>9}")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main)
