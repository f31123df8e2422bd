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
import statistics
import sys
import time

import numpy as np

from benchmarks import tensorflow_device
from benchmarks.report import MOST_THREADS, aligned, available_cores, machine
from trainers.cli import command
from trainers.runs.fields import Settings, setting
from trainers.runs.settings import check_projector

DEPTH, STEM, REDUNDANCY_WEIGHT = 18, "small", 0.0051
RATE, BETAS, EPSILON = 0.001, (0.9, 0.999), 1e-8  # Adam's; the default ε differs in Keras
VIEWS = {"area": (0.3, 1.0), "flip": 0.5, "jitter": 0.8, "brightness": 0.4, "contrast": 0.4}
VIEWS |= {"saturation": 0.0, "hue": 0.0, "grayscale": 0.0, "blur": (0.0, 0.0)}
VIEWS |= {"solarize": (0.0, 0.0)}
NEIGHBOURS, EVALUATION_BATCH = 20, 500
MOST_IMAGES, LARGEST_SIDE = 5000, 14  # defaults that take some minutes on two cores
UNTRAINED = "untrained"
OURS, OWN_START, SAME_START = "keras_bt", "PyTorch, own start", "PyTorch, same start"
TRAININGS = (OURS, OWN_START, SAME_START)


@dataclasses.dataclass(frozen=True)
class Training:
    """What all trainings share.

    Attributes:
        fitted: Labeled `keras_bt.data.Source` to train on.
        held_out: Likewise, to measure on; other images of the same data set.
        image_size: Side of the views, in pixels.
        batch_size: Images per step.
        steps: Number of steps.
        width: Width of the ResNet.
        widths: Widths of the projector's layers.
    """

    fitted: object
    held_out: object
    image_size: int
    batch_size: int
    steps: int
    width: int
    widths: list

    def views(self, seed):
        """Makes the views of all steps: two float32 arrays (steps, n, side, side, 3)."""
        from keras_bt import augmentations, data

        pair = augmentations.barlow_twins_views(self.image_size, **VIEWS)
        batches = data.pretraining_views(self.fitted, *pair, self.batch_size, seed)
        return tuple(map(np.stack, zip(*batches.take(self.steps).as_numpy_iterator(), strict=True)))

    def percent(self, backbone):
        """Measures the accuracy, in percent, of a weighted vote of the nearest neighbors."""
        from keras_bt import data
        from keras_bt.evaluation.features import extract_features
        from keras_bt.evaluation.knn import knn_accuracy

        fitted, held_out = (
            extract_features(
                backbone, data.evaluation_batches(source, self.image_size, EVALUATION_BATCH)
            )
            for source in (self.fitted, self.held_out)
        )
        return 100 * knn_accuracy(*fitted, *held_out, k=NEIGHBOURS)


def keras_model(training, seed):
    """Builds the `BarlowTwins` of a seed."""
    import keras

    from keras_bt import BarlowTwins, projector, resnet

    keras.utils.set_random_seed(seed)
    side = training.image_size
    backbone = resnet(DEPTH, STEM, training.width, (side, side, 3))
    head = projector(training.widths, input_dim=backbone.output_shape[-1])
    return BarlowTwins(backbone, head, REDUNDANCY_WEIGHT)


def fit_keras(model, views):
    """Trains on views (steps, n, side, side, 3); returns the loss of each step."""
    import keras
    import tensorflow as tf

    model.compile(keras.optimizers.Adam(RATE, *BETAS, EPSILON))
    batches = tf.data.Dataset.from_tensor_slices(views)
    # `fit` reports means over epochs, so each step is an epoch here.
    history = model.fit(batches, epochs=len(batches), steps_per_epoch=1, shuffle=False, verbose=0)
    return history.history["loss"]


def torch_model(training, seed):
    """Builds the published model of a seed, initialized as in the official code."""
    import torch

    from benchmarks import torch_barlow_twins as published

    torch.manual_seed(seed)
    backbone = published.resnet(*published.DEPTHS[DEPTH], STEM, training.width)
    published.initialize(backbone)
    return published.BarlowTwins(backbone, training.widths)


def load(model, start):
    """Loads the weights of a `BarlowTwins` into the PyTorch model."""
    import torch

    from keras_bt.torch_weights import state_dict

    state = state_dict(start.backbone, start.projector)
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})


def fit_torch(model, views):
    """Trains on views (steps, n, side, side, 3); returns the loss of each step."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), RATE, BETAS, EPSILON)
    losses = []
    for pair in zip(*views, strict=True):
        loss = model(*(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in pair))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def compared(training, seed):
    """Trains three times on the same views.

    Returns:
        accuracies: dict of percentages, of each of `TRAININGS` and of `UNTRAINED`: the backbone
            that Keras starts from with its residual blocks switched on, because they start as
            identities.
        losses: dict from each of `TRAININGS` to an array with the loss of every step.
    """
    from keras_bt.torch_weights import backbone_of
    from trainers.runs import backbones

    views = training.views(seed)
    untrained, ours = (keras_model(training, seed) for _ in range(2))
    backbones.switch_blocks_on(untrained.backbone)
    own, same = (torch_model(training, seed) for _ in range(2))
    load(same, ours)
    accuracies, losses = {UNTRAINED: training.percent(untrained.backbone)}, {}
    for name, model in zip(TRAININGS, (ours, own, same), strict=True):
        started = time.perf_counter()
        losses[name] = np.array((fit_keras if model is ours else fit_torch)(model, views))
        seconds = time.perf_counter() - started
        backbone = model.backbone
        if model is not ours:
            state = backbone.state_dict()
            backbone = backbone_of({name: tensor.numpy() for name, tensor in state.items()})
        accuracies[name] = training.percent(backbone)
        print(
            f"seed {seed}, {name}: {training.steps} steps in {seconds:.0f} s, loss "
            f"{losses[name][-1]:.2f}, accuracy {accuracies[name]:.2f}%",
            file=sys.stderr,
            flush=True,
        )
    return accuracies, losses


def table(seeds, accuracies):
    """Formats a row per seed, and mean ± standard deviation over the seeds."""
    names = (UNTRAINED, *TRAININGS)
    rows = [
        [str(seed), *(f"{found[name]:.2f}" for name in names)]
        for seed, found in zip(seeds, accuracies, strict=True)
    ]
    means = [mean_and_deviation([found[name] for found in accuracies]) for name in names]
    return aligned(["seed", *names], [*rows, ["mean", *means]])


def mean_and_deviation(values):
    """Formats mean ± sample standard deviation; of one value, the mean alone."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def opened(args):
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
        image_size=min(LARGEST_SIDE, *shape[:2]),
        batch_size=args.batch_size,
        steps=args.epochs * (images // args.batch_size),
        width=args.width,
        widths=[int(width) for width in args.projector.split("-")],
    )


def print_compared(args):
    from keras_bt import data
    from keras_bt.evaluation.knn import knn_accuracy

    t = opened(args)
    print(machine(args.threads))
    print(
        f"{args.data}: {t.fitted.num_examples:,} images to train on, {t.held_out.num_examples:,} "
        f"others to measure on; {t.steps} steps of {t.batch_size} images, {t.image_size} × "
        f"{t.image_size} pixels\n"
        f"ResNet-{DEPTH} of width {t.width}, {STEM} stem, projector {args.projector}; "
        f"Adam, rate {RATE:g}; float32 on the CPU, {args.threads} threads\n\n"
        f"Accuracy of {NEIGHBOURS} nearest neighbors in percent; ±: deviation over seeds\n",
        flush=True,
    )
    accuracies, losses = zip(*(compared(t, seed) for seed in args.seeds), strict=True)
    print(table(args.seeds, accuracies))
    raw = (data.raw_pixels(source) for source in (t.fitted, t.held_out))
    print(f"\nRaw pixels: {100 * knn_accuracy(*next(raw), *next(raw), k=NEIGHBOURS):.2f}%")
    differences = np.max([abs(found[OURS] / found[SAME_START] - 1) for found in losses], axis=0)
    first, some, most = (differences[:steps].max() for steps in (1, 10, t.steps))
    print(
        f"From the same start, the relative difference of the losses is {first:.0e} in the first "
        f"step, at most {some:.0e} in the first ten and {most:.0e} in all {t.steps}."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SameTrainingSettings(Settings):
    """The flags."""

    data: str = setting("digits", "Labeled images: digits, idx:DIR, folder:DIR …")
    images: int | None = setting(
        None,
        "Number of images to train on; a quarter as many others are measured on. Default: four "
        f"fifths of the training set, at most {MOST_IMAGES}.",
        least=1,
    )
    epochs: int = setting(3, "Epochs of each training.", least=1)
    batch_size: int = setting(256, "Images per step.", least=2)
    width: int = setting(16, "Width of the ResNet.", least=1, most=4096)
    projector: str = setting("256-256-256", "Widths of the projector's layers.")
    seeds: tuple[int, ...] = setting(
        (0, 1, 2),
        "Seeds for weight initialization, data order and views, one training each.",
        least=0,
        most=2**31 - 1,
    )
    threads: int = setting(
        available_cores(), "Threads of each framework.", least=1, most=MOST_THREADS
    )

    def __post_init__(self):
        super().__post_init__()
        check_projector(self.projector)


def compare(args):
    """Trains, measures and prints."""
    with command.mistakes:
        if importlib.util.find_spec("torch") is None:
            raise ValueError("The comparison needs PyTorch: pip install torch.")
        tensorflow_device.prepare(args.threads)
        import tensorflow as tf
        import torch

        tf.config.set_visible_devices([], "GPU")
        torch.set_num_threads(args.threads)
        print_compared(args)


def main():
    """Runs the command."""
    command.run(compare, SameTrainingSettings)


if __name__ == "__main__":
    main()
