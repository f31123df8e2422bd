"""Settings of the commands that work with pairs of images."""

import dataclasses

from trainers.runs.fields import Settings, fraction, free, setting
from trainers.runs.settings import (
    MOST_EPOCHS,
    MOST_IN_A_BATCH,
    MOST_PIXELS,
    MOST_WIDTH,
    ClassifierSettings,
)
from trainers.runs.sources import SOURCES


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSettings(Settings):
    """Which images are trained on, and which pairs are judged."""

    unseen: str | None = setting(
        None,
        "Classes that are not trained on, but judged: how many, drawn by --seed, or their names, "
        "joined by commas. Default: a third of all classes, two at least.",
    )
    labels: str = setting(
        "100%",
        "Labels to train with: a share such as 10%, or a number of images such as 600; the same "
        "number from each of the other classes.",
    )
    pairs: int = setting(
        20_000,
        "Number of validation pairs, by which the threshold is chosen, and of test pairs; those "
        "of pairs:FILE are all used.",
        least=2,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiameseSettings(PairSettings, ClassifierSettings):
    """Settings of a Siamese network's training, the flags of `trainers.siamese`."""

    backbone: str | None = free(
        None,
        "Pretrained backbone: the folder of a trainers.pretrain run, or a .keras file. Default: "
        "none, and a ResNet is trained from scratch.",
    )
    data: str | None = setting(
        None, f"Images with labels, or pairs:FILE: {SOURCES}. Default: those of the backbone's run."
    )
    from_scratch: bool = setting(
        False, "Start from random weights, for comparison; without --backbone it is so anyway."
    )
    frozen: bool = setting(False, "Train the head alone, on features of the backbone as it is.")
    network: str = setting(
        "resnet18",
        "Network without --backbone: resnet18, resnet34, resnet50, resnet101, resnet152, or a "
        ".keras file of a model from images to vectors.",
    )
    stem: str = setting(
        "small",
        "Stem of the ResNet without --backbone: imagenet, or small for images of about 32 pixels.",
        choices=("imagenet", "small"),
    )
    width: int = setting(
        16, "Channels of the ResNet's first stage without --backbone.", least=1, most=4096
    )
    image_size: int | tuple[int, int] | None = setting(
        None,
        "Side of the square images in pixels, or their height and width: 64x96. Default: that of "
        "the backbone's run, or 32 without --backbone.",
        least=1,
        most=MOST_PIXELS,
    )
    head: int = setting(
        128,
        "Length of the embedding, a linear layer's output; 0 for the backbone's features.",
        least=0,
        most=MOST_WIDTH,
    )
    form: str = setting(
        "contrastive",
        "Loss: contrastive (Hadsell et al. 2006) or cosine (after Bromley et al. 1993).",
        choices=("contrastive", "cosine"),
    )
    margin: float = setting(
        1.0,
        "Distance of embeddings from which different things are left alone, with "
        "--form=contrastive.",
        above=0,
        most=2,
    )
    min_area: float = fraction(0.6, "Smallest fraction of an image's area that a crop takes.")
    flip: float = fraction(0.0, "Probability of a horizontal flip.")
    rate: float | None = setting(
        None,
        "Peak learning rate of Adam. Default: 0.001, or 0.00003 if a pretrained backbone is "
        "trained.",
        above=0,
    )
    batch_size: int = setting(
        64, "Pairs per step, over all replicas together.", least=1, most=MOST_IN_A_BATCH // 2
    )
    epochs: int | None = setting(
        None,
        "Total number of training epochs, of as many pairs as there are images, but 1,000 at "
        "least. Default: as many as make 200 steps, or from scratch 1,000 and 5 at least.",
        least=1,
        most=MOST_EPOCHS,
    )
    workdir: str | None = free(
        None, "Folder of the run. Default: siamese_… beside the backbone, or in runs/."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.backbone is None:
            self._resolve(from_scratch=True)
        for name, default in (("network", "resnet18"), ("stem", "small"), ("width", 16)):
            value = getattr(self, name)
            if self.backbone is not None and value != default:
                raise ValueError(
                    f"--{name} is that of a network without --backbone. "
                    f"Received: --{name}={value} and --backbone={self.backbone}"
                )
        if self.frozen and (self.from_scratch or not self.head):
            other = "--from_scratch" if self.from_scratch else "--head=0"
            other = "no --backbone" if self.backbone is None else other
            raise ValueError(
                "--frozen trains a head on a pretrained backbone, and needs both. "
                f"Received: --frozen and {other}"
            )
        if self.form == "cosine" and self.margin != 1:
            raise ValueError(
                "--margin is that of --form=contrastive. "
                f"Received: --margin={self.margin} and --form=cosine"
            )
