"""Trains a classifier on few labels from an exported backbone and labels a JPEG. To copy and adapt.

First, pretrain on images without labels, here handwritten digits. This step uses keras_bt and
writes runs/digits/saved_model/1; for your own images add `--data=folder:PHOTOS --image_size=64`:

    python -m trainers.pretrain --workdir=runs/digits

From here on, Keras and TensorFlow suffice (and scikit-learn, for the digits). The images are the
same, now with labels for five per class, or for all with --labels_per_class=0:

    python examples/transfer.py --saved_model=runs/digits/saved_model/1

This trains a linear classifier on the features of the frozen backbone, then fine-tunes everything,
measures both, and writes them to classifier/frozen and classifier/fine_tuned, SavedModels that
depend on nothing else. With few labels the frozen one is better, with many the fine-tuned one.
Either labels an image file:

    python examples/transfer.py --classifier=classifier/frozen --jpeg=classifier/digit.jpg
"""

import argparse
import math
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

# For fine-tuning: the best of a few rates with 5 labels per class, on other training images.
RATE = 1e-4
BATCH_SIZE = 32


def digits():
    """Loads scikit-learn's handwritten digits as keras_bt does: the last 500 are the test set.

    Returns:
        uint8 (1297, 8, 8, 3), int (1297,), and the same for the test set. Your own images may have
        any size; the exported backbone includes its preprocessing.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype("uint8")[..., None].repeat(3, axis=-1)
    return images[:-500], data.target[:-500], images[-500:], data.target[-500:]


def some_of_each(labels, per_class, seed):
    """Draws the positions of `per_class` random images of each class, or of all images if 0."""
    random = np.random.default_rng(seed)
    if not per_class:
        return random.permutation(len(labels))
    chosen = [
        random.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)
    ]
    return random.permutation(np.concatenate(chosen))


def backbone_layer(saved_model, **arguments):
    """Opens the exported backbone as a Keras layer: uint8 images (b, h, w, 3) → features (b, d).

    In your own project, copy backbone_layer.py and import it.
    """
    sys.path.insert(0, str(pathlib.Path(saved_model) / "assets.extra"))
    from backbone_layer import BackboneLayer

    return BackboneLayer(saved_model, **arguments)


def train_frozen(backbone, images, labels, steps=200):
    """Trains a linear classifier on the features of the frozen backbone.

    Returns:
        `keras.Model`, uint8 images → logits.
    """
    inputs = keras.Input((None, None, 3), dtype="uint8")
    frozen = keras.Model(inputs, backbone(inputs))
    features = frozen.predict(images, batch_size=256, verbose=0)  # once, as they do not change

    variance = features.var(0)
    # Bounded below, because fine-tuning may awaken features that are still constant.
    variance += 0.1 * variance.mean()
    standardize = keras.layers.Normalization(mean=features.mean(0), variance=variance)
    penalty = keras.regularizers.L2(0.5 / len(images))  # scikit-learn's C = 1
    linear = keras.layers.Dense(int(labels.max()) + 1, kernel_regularizer=penalty)
    inner = keras.Input(features.shape[1:])
    head = keras.Model(inner, linear(standardize(inner)))
    head.compile(keras.optimizers.Adam(0.01), cross_entropy())
    everything = tf.data.Dataset.from_tensors((features, labels)).repeat()
    head.fit(everything, steps_per_epoch=steps, shuffle=False, verbose=0)
    return keras.Model(inputs, head(frozen.output))


def fine_tune(model, backbone, images, labels, epochs):
    """Continues with all weights, the backbone's included, at a low rate that decays to zero."""
    backbone.trainable = True
    steps = epochs * math.ceil(len(images) / BATCH_SIZE)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))
    model.compile(optimizer, cross_entropy())
    model.fit(images, labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


def cross_entropy():
    """Returns the loss for logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def accuracy(model, images, labels):
    """Returns the fraction of images whose largest logit is that of their class."""
    return float(np.mean(model.predict(images, batch_size=256, verbose=0).argmax(-1) == labels))


def write_classifier(model, folder):
    """Writes a SavedModel that needs neither the backbone's nor keras_bt."""
    model.export(folder, verbose=False)


def label_of(jpeg, classifier):
    """Predicts the label of an image in a JPEG file.

    Args:
        jpeg: The bytes of the file.
        classifier: What `tf.saved_model.load` returned, in any process on any machine.
    """
    # As accurate as the decoding for training; TensorFlow's default is a little faster.
    image = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
    return int(tf.argmax(classifier.serve(image[None])[0]))


def arguments():
    """Parses and checks the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--saved_model", default="runs/digits/saved_model/1", help="folder of an exported backbone")
    add("--labels_per_class", type=int, default=5, help="labeled images per class; 0: all")
    add("--epochs", type=int, default=30, help="epochs of fine-tuning")
    add("--out", default="classifier", help="folder to write the classifiers to")
    add("--jpeg", help="image file to label with --classifier, instead of training")
    add("--classifier", default="classifier/frozen", help="folder of a classifier written earlier")
    add("--seed", type=int, default=0, help="seed for the choice of labels and the training")
    flags = parser.parse_args()
    needed = flags.classifier if flags.jpeg else flags.saved_model
    if not pathlib.Path(needed, "saved_model.pb").is_file():
        parser.error(f"There must be a SavedModel. Received: {needed}")
    if flags.jpeg and not pathlib.Path(flags.jpeg).is_file():
        parser.error(f"There must be an image file. Received: {flags.jpeg}")
    return flags


def main():
    """Trains, measures, writes and uses a classifier; or only uses one."""
    flags = arguments()
    if flags.jpeg:
        classifier = tf.saved_model.load(flags.classifier)
        print(label_of(pathlib.Path(flags.jpeg).read_bytes(), classifier))
        return

    keras.utils.set_random_seed(flags.seed)
    images, labels, test_images, test_labels = digits()
    chosen = some_of_each(labels, flags.labels_per_class, flags.seed)
    images, labels = images[chosen], labels[chosen]
    print(f"{len(labels)} labeled images; accuracy in percent on {len(test_labels)} others:")

    backbone = backbone_layer(flags.saved_model, trainable=False)
    model = train_frozen(backbone, images, labels)
    print(f"  frozen      {100 * accuracy(model, test_images, test_labels):.1f}", flush=True)
    write_classifier(model, pathlib.Path(flags.out, "frozen"))
    fine_tune(model, backbone, images, labels, flags.epochs)
    print(f"  fine-tuned  {100 * accuracy(model, test_images, test_labels):.1f}", flush=True)
    write_classifier(model, pathlib.Path(flags.out, "fine_tuned"))

    jpeg = tf.io.encode_jpeg(test_images[0], quality=95).numpy()
    pathlib.Path(flags.out, "digit.jpg").write_bytes(jpeg)
    classifier = tf.saved_model.load(pathlib.Path(flags.out, "frozen"))
    print(f"Written to {flags.out}: frozen, fine_tuned, and digit.jpg, a {test_labels[0]}.")
    print(f"frozen takes digit.jpg for a {label_of(jpeg, classifier)}.")


if __name__ == "__main__":
    main()
