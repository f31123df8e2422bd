"""Settings of the commands: what they mean, their limits, and what goes together.

In Python, `PretrainingSettings(data="folder:photos", epochs=200)` checks what the flags check. This
module imports no TensorFlow, so that commands find mistakes at once.
"""

import dataclasses
import re
from collections.abc import Set
from typing import Any, Self

from trainers.runs.fields import Settings, as_text, fraction, free, setting
from trainers.runs.objectives import OBJECTIVES, not_of
from trainers.runs.sources import SOURCES


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """What all commands that open data have in common."""

    data_dir: str | None = free(None, "Folder where tfds keeps its data sets. Default: tfds's own.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingSettings(DataSettings):
    """How images are read: the run's own settings, or where they are None those of an earlier one.

    `OF_A_NEW_RUN` has what a new run takes for None.
    """

    background: str | None = setting(
        None,
        "Color that transparent images are shown on: white, black or #rrggbb. Default: white, or "
        "that of the backbone's run.",
    )
    exif: str | None = setting(
        None,
        "Whether the EXIF orientation of images is ignored, as in the published code, or applied. "
        "Default: ignore, or that of the backbone's run.",
        choices=("ignore", "apply"),
    )
    max_pixels: int | None = setting(
        None,
        "Images with more pixels count as unreadable. Default: 64 million, or that of the "
        "backbone's run.",
        least=1,
    )
    max_unreadable: str = free(
        "1%", "Share of unreadable images that is tolerated; they are left out, and listed."
    )
    normalize: str | None = setting(
        None,
        "Normalization of pixels: by the mean and deviation of ImageNet's red, green and blue, or "
        "none but the division by 255. Default: imagenet, or that of the backbone's run.",
        choices=("imagenet", "none"),
    )
    image_feature: str | None = setting(
        None, "Feature of a tfds data set that holds the images. Default: image, or the only one."
    )
    label_feature: str | None = setting(
        None, "Feature of a tfds data set that holds the labels. Default: label or labels."
    )

    def __post_init__(self):
        super().__post_init__()
        if not re.fullmatch(r"white|black|#[0-9a-fA-F]{6}", self.background or "white"):
            raise ValueError(
                "--background must be white, black or #rrggbb. "
                f"Received: --background={self.background}"
            )
        share = re.fullmatch(r"(\d+(?:\.\d+)?)%", self.max_unreadable)
        if not share or float(share[1]) > 100:
            raise ValueError(
                "--max_unreadable must be a share of the images such as 1%. "
                f"Received: --max_unreadable={self.max_unreadable}"
            )


MOST_EPOCHS = 1_000_000
MOST_IN_A_BATCH = 2**20
MOST_WIDTH = 2**20  # of a projector's layer
MOST_PIXELS = 4096  # of a side
RESIZE = (
    "Shorter side in pixels to which evaluation resizes images before the center crop. Default: "
    "256/224 of --image_size, or --image_size if all images have the same size and are no larger. "
    "For a crop that is not square, docs/data.md."
)
OF_A_NEW_RUN = {
    "background": "white",
    "exif": "ignore",
    "max_pixels": 64_000_000,
    "normalize": "imagenet",
}


def check_resize(resize: int | None, image_size: int | tuple[int, int]) -> None:
    """Raises ValueError if images would be resized to less than the crop of them."""
    least = min(image_size) if isinstance(image_size, tuple) else image_size
    if resize is not None and resize < least:
        raise ValueError(
            "--resize must be at least --image_size, of two numbers the smaller one. "
            f"Received: --resize={resize}, --image_size={image_size}"
        )


def check_projector(widths: str) -> None:
    """Raises ValueError unless it is the widths of a projector's layers, such as 512-512."""
    if not re.fullmatch(r"[1-9][0-9]{0,9}(-[1-9][0-9]{0,9}){0,19}", widths) or any(
        int(width) > MOST_WIDTH for width in widths.split("-")
    ):
        raise ValueError(
            "--projector must be layer widths such as 8192-8192-8192, at most 20 of them and none "
            f"over {MOST_WIDTH}. Received: --projector={widths}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(ReadingSettings):
    """What all runs that train on random crops have in common."""

    min_area: float = fraction(0.08, "Smallest fraction of an image's area that a crop takes.")
    flip: float = fraction(0.5, "Probability of a horizontal flip.")
    deterministic: bool | None = free(
        None,
        "Make runs with the same seed agree bit for bit. Default: on CPUs only, where the sole "
        "cost is that image files are decoded one at a time.",
    )
    log_every: int = free(10, "Steps between lines of metrics.jsonl.", least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingSettings(TrainingSettings):
    """Settings of a pretraining run, the flags of `trainers.pretrain`.

    >>> settings = PretrainingSettings(data="digits", epochs=20, projector="512-512")
    >>> settings.warmup_epochs  # a tenth, unless given
    2.0
    >>> settings.identity()["projector"]
    '512-512'
    >>> PretrainingSettings(epochs=0)
    Traceback (most recent call last):
    ValueError: --epochs must be at least 1. Received: --epochs=0
    """

    data: str = setting("digits", f"Images to train on: {SOURCES}.")
    workdir: str | None = free(
        None, "Folder of the run. Default: a folder in runs/ named after the data."
    )

    backbone: str = setting(
        "resnet18",
        "Network to pretrain: resnet18, resnet34, resnet50, resnet101, resnet152, or a .keras file "
        "of a model from images to vectors.",
    )
    stem: str = setting(
        "small",
        "Stem of the ResNet: imagenet, or small for images of about 32 pixels.",
        choices=("imagenet", "small"),
    )
    width: int = setting(16, "Channels of the ResNet's first stage.", least=1, most=4096)
    projector: str = setting("512-512-512", "Widths of the projector's layers, joined by hyphens.")
    image_size: int | tuple[int, int] = setting(
        32,
        "Side of the square views in pixels, or their height and width: 64x96.",
        least=1,
        most=MOST_PIXELS,
    )
    resize: int | None = setting(None, RESIZE, least=1, most=MOST_PIXELS)

    epochs: int = setting(100, "Total number of training epochs.", least=1, most=MOST_EPOCHS)
    batch_size: int = setting(
        128, "Images per step, over all replicas together.", least=2, most=MOST_IN_A_BATCH
    )
    # Milder than the paper's 0.08, and a higher rate than its 0.2, as small data sets have few
    # steps: docs/experiments.md.
    min_area: float = fraction(0.3, "Smallest fraction of an image's area that a crop takes.")
    objective: str = setting(
        "barlow_twins",
        "What is minimized: Barlow Twins, the same with mixed views, SimCLR's InfoNCE, its "
        "decoupled form DCL, or VICReg.",
        choices=tuple(OBJECTIVES),
    )
    redundancy_weight: float = setting(
        0.0051, "Weight λ of the redundancy term, of barlow_twins and mixed.", above=0
    )
    form: str = setting(
        "auto",
        "Matrix that barlow_twins, mixed and vicreg are computed from: the d × d "
        "cross-correlation, n × n Gram matrices, or whichever is smaller.",
        choices=("auto", "correlation", "gram"),
    )
    mixed_weight: float = setting(
        5.0, "Weight of the mixed views' term of mixed, a factor of --redundancy_weight.", least=0
    )
    temperature: float = setting(0.1, "Temperature of info_nce and dcl.", above=0)
    vicreg_weights: tuple[float, ...] = setting(
        (25.0, 25.0, 1.0), "Weights of vicreg's invariance, variance and covariance.", least=0
    )
    rate: float = setting(2.0, "Peak learning rate of kernels per 256 images of a batch.", above=0)
    bias_rate_ratio: float = setting(
        0.024,
        "Learning rate of biases and BatchNormalization's vectors relative to that of kernels.",
        least=0,
    )
    weight_decay: float = setting(1e-6, "Weight decay of kernels.", least=0)
    warmup_epochs: float | None = setting(
        None, "Epochs of linear warm-up. Default: a tenth of all epochs, at most 10.", least=0
    )

    jitter: float = fraction(0.8, "Probability of color jitter.")
    brightness: float = setting(
        0.4, "Strength of the color jitter's brightness change.", least=0, most=100
    )
    contrast: float = setting(
        0.4, "Strength of the color jitter's contrast change.", least=0, most=100
    )
    saturation: float = setting(
        0.2, "Strength of the color jitter's saturation change.", least=0, most=100
    )
    hue: float = setting(0.1, "Strength of the color jitter's hue shift.", least=0, most=0.5)
    grayscale: float = fraction(0.2, "Probability of converting a view to grayscale.")
    blur_a: float = fraction(1.0, "Probability of blurring view A.")
    blur_b: float = fraction(0.1, "Probability of blurring view B.")
    blur_sigma: float = setting(
        2.0,
        "Largest standard deviation of the blur in pixels; the smallest is 0.1.",
        least=0.1,
        most=1000,
    )
    solarize_a: float = fraction(0.0, "Probability of solarizing view A.")
    solarize_b: float = fraction(0.2, "Probability of solarizing view B.")
    rotation: float = setting(
        0.0, "Largest rotation angle in degrees (not in the paper).", least=0, most=360
    )
    shear: float = setting(
        0.0, "Largest shear angle in degrees (not in the paper).", least=0, most=89
    )

    augment_on: str = free(
        "auto",
        "Where views are made: on the host, or on the training device, with the host only decoding "
        "and cropping. They are the same. auto: on the device if it is a GPU or TPU.",
        choices=("auto", "host", "device"),
    )
    compile_views: bool | None = setting(
        None,
        "Compile the views on the host with XLA. Default: for views of 64 × 64 pixels or more.",
    )
    strategy: str = free(
        "auto",
        "Devices to train on: one, all of this machine (mirrored), those of every worker that "
        "TF_CONFIG or SLURM names (multiworker), a TPU, or what is available (auto). On JAX one, "
        "or all devices of all processes (auto).",
        choices=("auto", "one", "mirrored", "multiworker", "tpu"),
    )
    precision: str = setting(
        "auto",
        "Data type that the network computes in; the weights stay in float32. auto: bfloat16 on "
        "devices that multiply in it, otherwise float32; a run goes on with what it began with. On "
        "CPUs bfloat16 gains little at a --width that is no multiple of 16.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    remat: bool = free(
        False,
        "Recompute the backbone's activations in the backward pass instead of keeping them: more "
        "images fit into memory, but a step takes about a third longer.",
    )
    on_nonfinite: str = free(
        "stop",
        "Response to a step whose loss or gradient is not finite: stop the run, or skip the step "
        "and count it.",
        choices=("stop", "skip"),
    )
    seed: int = setting(
        0, "Seed for weight initialization, data order and views.", least=0, most=2**31 - 1
    )
    steps_per_execution: int = free(
        1, "Steps per compiled call; metrics are read only between calls.", least=1
    )
    checkpoint_every: int = free(1, "Epochs between checkpoints.", least=1)
    checkpoint_minutes: float = free(5.0, "Minutes between checkpoints within an epoch.", least=0)
    monitor_every: int = free(
        1,
        "Epochs between checks of the representation's health, and of its accuracy where there "
        "are labels; 0 for none.",
        least=0,
    )
    monitor_images: int = free(
        5000, "Labeled training images for measuring accuracy during training; 0 for none.", least=0
    )
    evaluate: bool = free(True, "Measure the backbone's accuracy after training.")

    def __post_init__(self):
        super().__post_init__()
        check_projector(self.projector)
        check_resize(self.resize, self.image_size)
        self._resolve(**{n: v for n, v in OF_A_NEW_RUN.items() if getattr(self, n) is None})
        if self.warmup_epochs is None:
            self._resolve(warmup_epochs=min(10.0, self.epochs / 10))
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                "--warmup_epochs must be at most --epochs. "
                f"Received: --warmup_epochs={self.warmup_epochs}, --epochs={self.epochs}"
            )
        if self.workdir is None:
            name = re.sub(r"[^\w.-]+", "_", self.data).strip("_")
            self._resolve(workdir=f"runs/{name}")
        if len(self.vicreg_weights) != 3:
            raise ValueError(
                "--vicreg_weights must be three numbers such as 25,25,1. "
                f"Received: --vicreg_weights={','.join(map(str, self.vicreg_weights))}"
            )
        for field in dataclasses.fields(self):
            if field.name in not_of(self.objective):
                value = getattr(self, field.name)
                if value != field.default:
                    applies = [n for n, kind in OBJECTIVES.items() if field.name in kind.settings]
                    raise ValueError(
                        f"--{field.name} applies to --objective={' or '.join(applies)}. Received: "
                        f"--{field.name}={as_text(field, value)}, --objective={self.objective}"
                    )

    @classmethod
    def of_flags(cls, values: dict[str, Any], typed: Set[str]) -> Self:
        """Passes over what a recipe says for another objective than the one that is trained."""
        left_out = not_of(values["objective"]) - typed
        return super().of_flags({n: v for n, v in values.items() if n not in left_out}, typed)

    def identity(self) -> dict[str, Any]:
        """Returns what determines the run, without what does not apply to its objective."""
        leave_out = not_of(self.objective)
        return {n: value for n, value in super().identity().items() if n not in leave_out}

    @classmethod
    def of_identity(cls, identity: dict[str, Any], **others: Any) -> Self:
        """Returns the settings of an earlier run; of one with an objective of its own, the rest."""
        if isinstance(identity.get("objective"), dict):  # given in Python, not by a flag
            identity = {name: v for name, v in identity.items() if name != "objective"}
        return super().of_identity(identity, **others)

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the projector's layers."""
        return tuple(map(int, self.projector.split("-")))

    @property
    def policy(self) -> str:
        """The name of Keras' dtype policy; for a precision that is not `auto`."""
        return "float32" if self.precision == "float32" else f"mixed_{self.precision}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSettings(ReadingSettings):
    """A pretrained backbone and the images that it is given."""

    backbone: str | None = free(
        None, "Pretrained backbone: the folder of a trainers.pretrain run, or a .keras file."
    )
    data: str | None = setting(None, f"Images: {SOURCES}. Default: those of the backbone's run.")
    image_size: int | tuple[int, int] | None = setting(
        None,
        "Side of the square images in pixels, or their height and width: 64x96. Default: that of "
        "the backbone's run.",
        least=1,
        most=MOST_PIXELS,
    )
    resize: int | None = setting(
        None, RESIZE + " An earlier run's --resize holds for it.", least=1, most=MOST_PIXELS
    )
    cache_dir: str | None = free(
        None, "Folder that caches features. Default: features/ beside the backbone."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubjectSettings(BackboneSettings):
    """A backbone and labeled images to measure it with, as all measuring commands have them."""

    data: str | None = setting(
        None, f"Labeled images: {SOURCES}. Default: those of the backbone's run."
    )
    seed: int = setting(
        0,
        "Seed for all random choices: held-out images, labels, weights, data order and crops.",
        least=0,
        most=2**31 - 1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnnSettings(SubjectSettings):
    """Settings of a nearest-neighbor classifier, the flags of `trainers.knn`."""

    k: tuple[int, ...] = setting(
        (20, 200), "Numbers of neighbors that vote, separated by commas.", least=1
    )
    temperature: float = setting(
        0.07, "Temperature of the votes; the lower, the more the nearest ones count.", above=0
    )
    batch_size: int = setting(
        256, "Images per batch during feature extraction.", least=1, most=MOST_IN_A_BATCH
    )
    raw_pixels: bool = setting(False, "Measure raw pixels as well.")
    out: str | None = setting(
        None, "JSON file of the results. Default: evaluation/knn….json beside the backbone."
    )

    def __post_init__(self):
        self._resolve(k=tuple(dict.fromkeys(self.k)))
        super().__post_init__()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierSettings(SubjectSettings, TrainingSettings):
    """What runs that train a classifier have in common."""

    strategy: str = free(
        "auto",
        "Devices to train on: one, all of this machine (mirrored), a TPU, or what is available "
        "(auto). On JAX one.",
        choices=("auto", "one", "mirrored", "tpu"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeSettings(ClassifierSettings):
    """Settings of a linear probe, the flags of `trainers.linear_probe`."""

    labels: str = setting(
        "100%",
        "Labels to train with: a share such as 10%, or a number of images such as 600; the same "
        "number from each class.",
    )
    epochs: int = setting(100, "Total number of training epochs.", least=1, most=MOST_EPOCHS)
    batch_size: int = setting(
        256, "Images per step, over all replicas together.", least=1, most=MOST_IN_A_BATCH
    )
    rate: float = setting(0.3, "Initial learning rate, independent of the batch size.", above=0)
    weight_decay: float = setting(
        1e-6, "Weight decay of the classifier's kernel and bias.", least=0
    )
    schedule: str = setting(
        "cosine",
        "Schedule of the learning rate, which changes once per epoch.",
        choices=("cosine", "step"),
    )
    milestones: tuple[int, ...] = setting(
        (), "Epochs after which --schedule=step lowers the learning rate: 7,14,21, say.", least=1
    )
    decay: float = fraction(0.1, "Factor on the learning rate at each of the --milestones.")
    fast: bool = free(
        False, "Fit a logistic regression to features kept on disk instead of training by SGD."
    )
    draws: int = free(
        1,
        "Random draws of the labels with --fast; their mean and standard deviation are reported.",
        least=1,
        most=1000,
    )
    c: float | None = free(
        None,
        "Inverse L2 penalty of the classifier with --fast, scikit-learn's C. Default: chosen by "
        "cross-validation on the training images, or 0.3 with fewer than ten of a class.",
        above=0,
    )
    raw_pixels: bool = free(False, "Measure raw pixels as well, with --fast.")
    workdir: str | None = free(
        None,
        "Folder of the run. Default: linear_probe/ beside the backbone, or evaluation/ with "
        "--fast.",
    )

    def __post_init__(self):
        super().__post_init__()
        for name, default in (("draws", 1), ("c", None), ("raw_pixels", False)):
            if getattr(self, name) != default and not self.fast:
                raise ValueError(f"--{name} requires --fast. Received: --{name} without it.")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(
                "--schedule=step and --milestones must be given together. Received: "
                f"--schedule={self.schedule}, --milestones={','.join(map(str, self.milestones))}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuningSettings(ClassifierSettings):
    """Settings of a fine-tuning run, the flags of `trainers.finetune`."""

    labels: str = setting(
        "1%",
        "Labels to train with: a share such as 1%, or a number of images such as 600; the same "
        "number from each class. For tfds:imagenet2012, 1% and 10% are the official subsets.",
    )
    min_area: float | None = fraction(
        None,
        "Smallest fraction of an image's area that a crop takes. Default: that of the backbone's "
        "run, or 0.08.",
    )
    flip: float | None = fraction(
        None, "Probability of a horizontal flip. Default: that of the backbone's run, or 0.5."
    )
    from_scratch: bool = setting(False, "Start from random weights, for comparison.")
    workdir: str | None = free(None, "Folder of the run. Default: finetune_… beside the backbone.")
    schedule: str = setting(
        "cosine",
        "Schedule of the learning rates, which change once per epoch: cosine (published code), or "
        "step (paper), × 0.2 after epochs 12 and 16 of 20.",
        choices=("cosine", "step"),
    )
    backbone_rate: float | None = setting(
        None,
        "Initial learning rate of the backbone. Default: 0.005 with cosine, 0.002 with step; a "
        "fifth of it with fewer than 2,048 images.",
        least=0,
    )
    head_rate: float | None = setting(
        None,
        "Initial learning rate of the head. Default: 0.5, or less if the backbone's features are "
        "too large for it.",
        above=0,
    )
    # The best of 0.02, 0.05, 0.1, 0.2 and 0.5 on held-out training images, both for 1% of
    # Fashion-MNIST and for the digits (batch size 256, 20 epochs, a ResNet-18 of width 16).
    scratch_rate: float = free(
        0.5, "Initial learning rate of the whole network with --from_scratch.", above=0
    )
    epochs: int | None = setting(
        None,
        "Total number of training epochs. Default: 20, or as many as make 300 steps.",
        least=1,
        most=MOST_EPOCHS,
    )
    batch_size: int | None = setting(
        None,
        "Images per step, over all replicas together; capped at the number of training images. "
        "Default: 256, or with fewer than 2,048 images an eighth of them, but 16 to 32 at least.",
        least=1,
        most=MOST_IN_A_BATCH,
    )
    measure_every: int = free(
        1,
        "Epochs between measurements on the test images, which take longer than training when "
        "labels are few; the last epoch is always measured.",
        least=1,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.scratch_rate != 0.5 and not self.from_scratch:
            raise ValueError(
                "--scratch_rate requires --from_scratch. "
                f"Received: --scratch_rate={self.scratch_rate} without it."
            )
        given = {name: getattr(self, name) for name in ("backbone_rate", "head_rate")}
        given = {name: rate for name, rate in given.items() if rate is not None}
        if not self.from_scratch:
            return
        if set(given.values()) <= {self.scratch_rate}:  # none, or resolved before
            self._resolve(backbone_rate=self.scratch_rate, head_rate=self.scratch_rate)
        else:
            raise ValueError(
                "--from_scratch takes a single rate, --scratch_rate. "
                f"Received: {', '.join(f'--{name}={rate}' for name, rate in given.items())}"
            )
