"""Measures a backbone with a k-nearest-neighbor classifier: python -m trainers.knn --backbone=RUN.

Nothing is trained: the k training images nearest to an image, by cosine similarity of features,
vote for its class, each vote weighted by exp(similarity / temperature) (Wu et al. 2018, arXiv
1805.01978, section 3.4). One search serves all k.

Memory, beyond the 1 GB or so of Keras and TensorFlow themselves: features are kept on disk and
memory-mapped, so the system keeps as many of them in memory as fit. The search needs 0.25 GB and
the votes at most 0.6 GB for 50,000 queries, 1000 classes and k = 200, however many training images
there are; `keras_bt.evaluation.neighbours` and `keras_bt.evaluation.knn` state the formulas.
`--raw_pixels` also holds the pixels of all images in memory: 12 kB per image, 16 GB for ImageNet.
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

flags.DEFINE_list("k", ["20", "200"], "Numbers of neighbors that vote, separated by commas.")
flags.DEFINE_float(
    "temperature", 0.07, "Temperature of the votes; the lower, the more the nearest ones count."
)
flags.DEFINE_integer("batch_size", 256, "Images per batch during feature extraction.", 1)
flags.DEFINE_bool("raw_pixels", False, "Measure raw pixels as well.")
flags.DEFINE_string(
    "out", None, "JSON file of the results. Default: evaluation/knn.json beside the backbone."
)


def main():
    """Extracts features, finds their nearest neighbors, and writes and prints the accuracies."""
    started = time.time()
    with command.mistakes:
        ks = read_ks(FLAGS.k)
        if not 0 < FLAGS.temperature < float("inf"):
            raise ValueError(
                f"--temperature must be a number > 0. Received: --temperature={FLAGS.temperature}"
            )
        # Imported only once the flags are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from keras_bt import data, workdir
            from keras_bt.evaluation.knn import knn_accuracies

        measured = subject.read()
        train, test = measured.train, measured.test
        check(ks, train, measured.data)
        out = writable(FLAGS.out or measured.folder / "evaluation" / "knn.json")
        print(measured)

        def accuracies_of(train_features, test_features, name):
            print(f"Nearest neighbors by {name}:")
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
    """Parses the numbers of neighbors: ["20", "3", "20"] → [20, 3].

    Raises:
        ValueError: if they are not whole numbers of 1 or more.
    """
    given = ",".join(texts)
    try:
        ks = list(dict.fromkeys(int(text) for text in texts))
    except ValueError:
        ks = []
    if not ks or min(ks) < 1:
        raise ValueError(f"--k must be whole numbers ≥ 1, such as 20,200. Received: --k={given}")
    return ks


def writable(path):
    """Returns the path of a file that can be written, having made its folder.

    Raises:
        ValueError: if it cannot be written; better now than after hours.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"--out must be a writable file. Received: --out={path}")
    return path


def check(ks, train, name):
    """Refuses what neighbors cannot classify, before features are extracted.

    Raises:
        ValueError: if images have several labels, or a k exceeds the number of training images.
    """
    if getattr(train, "multilabel", False):
        raise ValueError(
            "Nearest neighbors need images with one label each. "
            f"Received: {name}, whose images have several; use trainers.linear_probe --fast."
        )
    if max(ks) > train.num_examples:
        raise ValueError(
            "--k must be at most the number of training images. "
            f"Received: --k={max(ks)} for {train.num_examples:,} training images of {name}."
        )


def table(results):
    """Formats a dict from names to the results of `knn_accuracies`, in percent."""
    lines = [f"{'':12}{'k':>6}{'top-1':>9}{'top-5':>9}"]
    for name, accuracies in results.items():
        for k, found in accuracies.items():
            top5 = "–" if found.top5 is None else f"{100 * found.top5:.2f}"
            lines.append(f"{name:12}{k:6}{100 * found.top1:9.2f}{top5:>9}")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main)
