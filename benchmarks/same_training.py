"""Does a short training end where the published formula does? `python -m benchmarks.same_training`.

Runs the same training with `BarlowTwins.fit` and with the PyTorch model and the published loss
(`benchmarks.torch_barlow_twins`). Both get the same views in the same order, made once as arrays,
and Adam with the same settings, and both start from the same distribution of weights: torchvision's
with the last γ of every block zero, and PyTorch's default in the projector. PyTorch trains twice:
from its own weights, as an independent repetition, and from the very weights that Keras starts
from. The remaining differences are then rounding; Adam's ε, which Keras adds before it corrects the
bias of the mean square and PyTorch after; the variances kept for evaluation, which are unbiased in
PyTorch; and what training makes of these.

Measures nearest-neighbor accuracy among the features of the images trained on, for other images of
the training set; the test set is not touched. Everything runs on the CPU in float32. The views of a
training are in memory: 24 · steps · batch · side² bytes.

The views suit small grayscale images: crop, flip, brightness and contrast, without color.
"""

import dataclasses
import importlib.util
import json
import math
import pathlib
import re
import statistics
import sys
import time

import numpy as np
from absl import flags

from benchmarks.report import aligned, available_cores, machine
from trainers.cli import command

DEPTH, STEM, REDUNDANCY_WEIGHT = 18, "small", 0.0051
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's; Keras and PyTorch differ in their default ε
VIEWS = {"area": (0.3, 1.0), "flip": 0.5, "jitter": 0.8, "brightness": 0.4, "contrast": 0.4}
VIEWS |= {"saturation": 0.0, "hue": 0.0, "grayscale": 0.0, "blur": (0.0, 0.0)}
VIEWS |= {"solarize": (0.0, 0.0)}
NEIGHBOURS = 20
MOST_IMAGES, LARGEST_SIDE = 5000, 14  # defaults that take some minutes on two cores
EVALUATION_BATCH = 500
UNTRAINED = "untrained"
OURS, OWN_START, SAME_START = "keras_bt", "PyTorch, own start", "PyTorch, same start"
TRAININGS = (OURS, OWN_START, SAME_START)


@dataclasses.dataclass(frozen=True)
class Training:
    """The settings that all trainings share.

    Attributes:
        fitted: Labeled `keras_bt.data.Source` to train on.
        held_out: Likewise, to measure on; other images of the same data set.
        image_size: Side of the views, in pixels.
        batch_size: Images per step.
        epochs: Number of epochs.
        width: Width of the ResNet.
        widths: Widths of the projector's layers.
        rate: Learning rate of Adam.
    """

    fitted: object
    held_out: object
    image_size: int
    batch_size: int
    epochs: int
    width: int
    widths: list
    rate: float

    @property
    def steps_per_epoch(self):
        """Number of whole batches in an epoch."""
        return self.fitted.num_examples // self.batch_size

    def views(self, seed):
        """Makes the views of all steps: two float32 arrays (steps, n, side, side, 3)."""
        from keras_bt import augmentations, data

        pair = augmentations.barlow_twins_views(self.image_size, **VIEWS)
        batches = data.pretraining_views(self.fitted, *pair, self.batch_size, seed)
        batches = batches.take(self.epochs * self.steps_per_epoch).as_numpy_iterator()
        return tuple(map(np.stack, zip(*batches, strict=True)))

    def batches(self, source):
        """Returns a source as a network sees it: batches of (images, labels)."""
        from keras_bt import data

        return data.evaluation_batches(source, self.image_size, EVALUATION_BATCH)

    def accuracy(self, features):
        """Measures the accuracy, 0 to 1, of a weighted vote of the nearest neighbors.

        Args:
            features: Function from a source to (features (n, d), labels (n,)).
        """
        from keras_bt.evaluation.knn import knn_accuracy

        return knn_accuracy(*features(self.fitted), *features(self.held_out), k=NEIGHBOURS)


def keras_model(training, seed):
    """Builds the `BarlowTwins` of a seed."""
    import keras

    from keras_bt import BarlowTwins, projector, resnet

    keras.utils.set_random_seed(seed)
    side = training.image_size
    backbone = resnet(DEPTH, STEM, training.width, (side, side, 3))
    head = projector(training.widths, input_dim=backbone.output_shape[-1])
    return BarlowTwins(backbone, head, REDUNDANCY_WEIGHT)


def fit_keras(model, views, rate):
    """Trains on views (steps, n, side, side, 3); returns the loss of each step."""
    import keras
    import tensorflow as tf

    model.compile(keras.optimizers.Adam(rate, *BETAS, EPSILON))
    batches = tf.data.Dataset.from_tensor_slices(views)
    # `fit` reports means over epochs, so each step is an epoch here.
    history = model.fit(batches, epochs=len(batches), steps_per_epoch=1, shuffle=False, verbose=0)
    return history.history["loss"]


def keras_features(model, batches):
    """Returns the backbone's features and the labels of batches of (images, labels)."""
    from keras_bt.evaluation.features import extract_features

    return extract_features(model.backbone, batches)


def torch_model(training, seed):
    """Builds the published model of a seed, initialized as in the official code."""
    import torch
    from torch import nn

    from benchmarks import torch_barlow_twins as published

    torch.manual_seed(seed)
    backbone = published.resnet(DEPTH, STEM, training.width)
    for module in backbone.modules():  # torchvision's resnet18(zero_init_residual=True)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, published.Block):
            nn.init.zeros_(module.normalizations[-1].weight)
    return published.BarlowTwins(backbone, training.widths)


def load(model, state):
    """Loads all weights of a `keras_bt.torch_weights.state_dict` into the PyTorch model."""
    import torch

    own = {name: torch.tensor(state[official_name(name)]) for name in model.state_dict()}
    if len(own) != len(state):
        raise RuntimeError(f"The models must have the same tensors: {len(own)}, {len(state)}.")
    model.load_state_dict(own)


def official_name(name):
    """Returns the name of a tensor in the official code, with torchvision's ResNet-18.

    >>> official_name("backbone.6.convolutions.0.weight")
    'backbone.layer2.1.conv1.weight'
    """
    module, place, *rest = name.split(".")
    if module == "projector":
        return name
    if module == "normalize":
        return f"bn.{place}"
    if place in ("0", "1"):
        return ".".join(["backbone", {"0": "conv1", "1": "bn1"}[place], *rest])
    stage, index = divmod(int(place) - 3, 2)  # after convolution, normalization and ReLU
    part, number, tensor = rest
    kinds = {"convolutions": "conv", "normalizations": "bn"}
    part = f"{kinds[part]}{int(number) + 1}" if part in kinds else f"{part}.{number}"
    return f"backbone.layer{stage + 1}.{index}.{part}.{tensor}"


def fit_torch(model, views, rate):
    """Trains on views (steps, n, side, side, 3); returns the loss of each step."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), rate, BETAS, EPSILON)
    model.train()
    losses = []
    for pair in zip(*views, strict=True):
        loss = model(*map(channels_first, pair))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def torch_features(model, batches):
    """Returns the backbone's features and the labels of batches of (images, labels)."""
    import torch

    model.eval()
    with torch.inference_mode():
        parts = [
            (model.backbone(channels_first(images)).numpy(), labels)
            for images, labels in batches.as_numpy_iterator()
        ]
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def channels_first(images):
    """Converts an array (n, h, w, c) to a PyTorch tensor (n, c, h, w)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def compared(training, seed):
    """Trains three times on the same views.

    Returns:
        dict: "seed", and for each of `TRAININGS` a dict of "accuracy", 0 to 1, and "losses", one
        per step. For `UNTRAINED` only the accuracy, of the backbone that Keras starts from with its
        residual blocks switched on, because they start as identities.
    """
    from keras_bt.torch_weights import state_dict
    from trainers.runs import backbones

    views = training.views(seed)
    untrained = keras_model(training, seed)
    backbones.switch_blocks_on(untrained.backbone)
    ours, own, same = keras_model(training, seed), *(torch_model(training, seed) for _ in range(2))
    load(same, state_dict(ours.backbone, ours.projector))

    def accuracy(features, model):
        return training.accuracy(lambda source: features(model, training.batches(source)))

    results = {"seed": seed, UNTRAINED: {"accuracy": accuracy(keras_features, untrained)}}
    for name, model, fit, features in (
        (OURS, ours, fit_keras, keras_features),
        (OWN_START, own, fit_torch, torch_features),
        (SAME_START, same, fit_torch, torch_features),
    ):
        started = time.perf_counter()
        losses = fit(model, views, training.rate)
        seconds = time.perf_counter() - started
        results[name] = {"accuracy": accuracy(features, model), "losses": losses}
        print(
            f"seed {seed}, {name}: {len(losses)} steps in {seconds:.0f} s, loss {losses[-1]:.2f}, "
            f"accuracy {100 * results[name]['accuracy']:.2f}%",
            file=sys.stderr,
            flush=True,
        )
    return results


def percent(results, name):
    """Returns the accuracy of each seed, in percent."""
    return [100 * result[name]["accuracy"] for result in results]


def rows(results, steps_per_epoch):
    """Formats the table's rows: one per seed, and mean ± standard deviation over the seeds."""
    untrained = percent(results, UNTRAINED)
    columns = [[*(f"{x:.2f}" for x in untrained), mean_and_deviation(untrained)]]
    for name in TRAININGS:
        accuracies = percent(results, name)
        losses = [statistics.fmean(r[name]["losses"][-steps_per_epoch:]) for r in results]
        cells = [f"{a:.2f} ({loss:.2f})" for a, loss in zip(accuracies, losses, strict=True)]
        cells.append(f"{mean_and_deviation(accuracies)} ({mean_and_deviation(losses)})")
        columns.append(cells)
    seeds = [*(str(result["seed"]) for result in results), "mean"]
    return list(zip(seeds, *columns, strict=True))


def mean_and_deviation(values):
    """Formats mean ± sample standard deviation; of one value, the mean alone."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def verdict(results, name):
    """Writes a sentence on the difference of the mean accuracies and the spread over seeds."""
    ours, theirs = percent(results, OURS), percent(results, name)
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    sentence = f"{OURS} − {name}: {difference:+.2f} percentage points of mean accuracy"
    if len(results) < 2:
        return f"{sentence}; one seed has no spread."
    spreads = [statistics.stdev(values) for values in (ours, theirs)]
    side = "within" if abs(difference) <= max(spreads) else "beyond"
    deviations = " and ".join(f"{spread:.2f}" for spread in spreads)
    return f"{sentence}, {side} the spread over seeds: standard deviations {deviations}."


def loss_difference(results, steps):
    """Returns the largest |Keras loss / PyTorch loss − 1| in the first steps of the same start."""
    ours, theirs = (
        np.array([result[name]["losses"][:steps] for result in results])
        for name in (OURS, SAME_START)
    )
    return float(np.max(np.abs(ours / theirs - 1)))


def checked(args):
    """Returns the seeds and the widths of the projector's layers, as numbers.

    Raises:
        ValueError: a flag is out of range, or PyTorch is missing.
    """
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", args.projector):
        raise ValueError(f"projector must be widths such as 256-256. Received: {args.projector}")
    seeds = [int(seed) for seed in args.seeds if seed.isdecimal()]
    if not seeds or len(set(seeds)) < len(args.seeds):
        raise ValueError(
            f"seeds must be different whole numbers. Received: {','.join(args.seeds) or 'none'}"
        )
    if not 0 < args.rate < math.inf:
        raise ValueError(f"rate must be a number above 0. Received: {args.rate}")
    if args.out and not pathlib.Path(args.out).absolute().parent.is_dir():
        raise ValueError(f"out must be a file in a folder that exists. Received: {args.out}")
    if importlib.util.find_spec("torch") is None:
        raise ValueError("The comparison needs PyTorch: pip install torch.")
    return seeds, [int(width) for width in args.projector.split("-")]


def opened(args, widths):
    """Returns the training that the flags describe.

    Raises:
        ValueError: the data cannot be read, or are too few.
    """
    from keras_bt import data

    source, _ = data.open_source(args.data)
    labels, total = source.labels(), source.num_examples
    if labels.ndim != 1:
        raise ValueError(
            f"Images must have one label each. Received: {args.data}, which has several."
        )
    images = args.images or min(MOST_IMAGES, total * 4 // 5)
    end = images + images // 4
    least = max(args.batch_size, NEIGHBOURS)
    if images < least or end > total:
        raise ValueError(
            f"images must be at least {least}, for a batch and {NEIGHBOURS} neighbors, and at "
            f"most four fifths of {total} in {args.data}. Received: images={images}."
        )
    order = np.random.default_rng(0).permutation(total)  # a source may be sorted by class
    shape = source.image_shape or (LARGEST_SIDE,)
    return Training(
        fitted=source.subset(order[:images]),
        held_out=source.subset(order[images:end]),
        image_size=args.image_size or min(LARGEST_SIDE, *shape[:2]),
        batch_size=args.batch_size,
        epochs=args.epochs,
        width=args.width,
        widths=widths,
        rate=args.rate,
    )


def print_compared(args, training, pixels, results):
    t = training
    print(
        f"{args.data}: {t.fitted.num_examples:,} images to train on, {t.held_out.num_examples:,} "
        f"others to measure on; {t.epochs} epochs of {t.steps_per_epoch} batches of {t.batch_size},"
        f" {t.image_size} × {t.image_size} pixels\n"
        f"ResNet-{DEPTH} of width {t.width}, {STEM} stem, projector {args.projector}; Adam, rate "
        f"{t.rate:g}; float32 on the CPU, {args.threads} threads\n\n"
        f"Accuracy of {NEIGHBOURS} nearest neighbors in percent; in parentheses the mean loss of "
        "the last epoch; ±: standard deviation over seeds\n"
    )
    print(aligned(["seed", UNTRAINED, *TRAININGS], rows(results, t.steps_per_epoch)))
    print(f"\nRaw pixels: {100 * pixels:.2f}%")
    for name in (OWN_START, SAME_START):
        print(verdict(results, name))
    steps = t.epochs * t.steps_per_epoch
    first, some, most = (loss_difference(results, k) for k in (1, min(10, steps), steps))
    print(
        f"From the same start, the relative difference of the losses is {first:.0e} in the first "
        f"step, at most {some:.0e} in the first {min(10, steps)} and {most:.0e} in all {steps}."
    )


def main():
    """Trains, measures and prints."""
    args = flags.FLAGS
    with command.mistakes:
        seeds, widths = checked(args)
        with command.quiet_start():
            import tensorflow as tf

            from benchmarks import tensorflow_device
        import torch

        tf.config.set_visible_devices([], "GPU")
        tensorflow_device.prepare(args.threads)
        torch.set_num_threads(args.threads)

        from keras_bt import data

        training = opened(args, widths)
        pixels = training.accuracy(data.raw_pixels)
        print(machine(args.threads), flush=True)
        results = [compared(training, seed) for seed in seeds]
        print_compared(args, training, pixels, results)
        if args.out:
            settings = {f.name: f.value for f in args.get_key_flags_for_module(sys.argv[0])}
            content = {"settings": settings, "raw_pixels": pixels, "seeds": results}
            pathlib.Path(args.out).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("data", "digits", "Labeled images: digits, idx:DIR, folder:DIR …")
    flags.DEFINE_integer(
        "images",
        None,
        "Number of images to train on; a quarter as many others are measured on. Default: four "
        f"fifths of the training set, at most {MOST_IMAGES}.",
        1,
    )
    flags.DEFINE_integer(
        "image_size",
        None,
        f"Side of the views, in pixels. Default: the images' own, at most {LARGEST_SIDE}.",
        1,
    )
    flags.DEFINE_integer("epochs", 3, "Epochs of each training.", 1)
    flags.DEFINE_integer("batch_size", 256, "Images per step.", 2)
    flags.DEFINE_integer("width", 16, "Width of the ResNet.", 1)
    flags.DEFINE_string("projector", "256-256-256", "Widths of the projector's layers.")
    flags.DEFINE_float("rate", 0.001, "Learning rate of Adam.")
    seeds = "Seeds for weight initialization, data order and views, one training each."
    flags.DEFINE_list("seeds", ["0", "1", "2"], seeds)
    flags.DEFINE_integer("threads", available_cores(), "Threads of each framework.", 1)
    flags.DEFINE_string("out", None, "JSON file for every loss and accuracy. Default: none.")
    command.run(main)
