"""Settings of `trainers.verify`."""

import dataclasses

from trainers.runs.fields import free, setting
from trainers.runs.pair_settings import PairSettings
from trainers.runs.settings import MOST_IN_A_BATCH, SubjectSettings

EMBEDDINGS = {
    "backbone": "backbone",
    "whitened": "backbone, whitened",
    "trained": "trained on pairs",
}
# What chooses the pairs that figures are of, and says nothing about one pair.
_OF_FIGURES = ("data", "unseen", "labels", "pairs", "references", "raw_pixels", "seed", "cache_dir")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifySettings(PairSettings, SubjectSettings):
    """The flags: what to measure, or which pair to answer for."""

    labels: str = setting(
        "100%",
        "Images of the other classes that whitening is fitted to: a share such as 10%, or a number "
        "such as 600; the same number from each class.",
    )
    references: tuple[int, ...] = setting(
        (1, 5),
        "Numbers of references of each class that an image is compared with, separated by commas.",
        least=1,
    )
    raw_pixels: bool = setting(True, "Measure raw pixels as well.")
    batch_size: int = free(
        256, "Images per batch during feature extraction.", least=1, most=MOST_IN_A_BATCH
    )
    out: str | None = free(
        None,
        "JSON file of the figures, with pictures beside it, or of the answer for one pair. "
        "Default: evaluation/verify….json beside the backbone, and none of an answer.",
    )
    reference: tuple[str, ...] = free(
        (),
        "Image file that --image is compared with; give the flag several times for several.",
        repeated=True,
    )
    image: str | None = free(
        None, "Image file to accept or not: does it show the same as each --reference?"
    )
    embedding: str | None = free(
        None,
        "Embedding that --image is compared by: the backbone's features, plain or whitened, or "
        "the one trained on pairs. Default: the latter for a run of trainers.siamese, else plain.",
        choices=tuple(EMBEDDINGS),
    )
    thresholds: str | None = free(
        None,
        "JSON file of figures whose threshold decides about --image. Default: "
        "evaluation/verify.json beside the backbone.",
    )

    def __post_init__(self):
        self._resolve(references=tuple(dict.fromkeys(self.references)))
        super().__post_init__()
        if bool(self.reference) != (self.image is not None):
            given, missing = (
                ("image", "reference") if self.image is not None else ("reference", "image")
            )
            raise ValueError(
                f"--reference and --image must be given together. Received: --{given} without "
                f"--{missing}."
            )
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in _OF_FIGURES if self.image is not None else ("embedding", "thresholds"):
            if getattr(self, name) != defaults[name]:
                rule = "must not be given with --image" if self.image else "requires --image"
                raise ValueError(f"--{name} {rule}. Received: --{name}={getattr(self, name)}")
