"""Settings of the commands that work on all images of a collection, labeled or not."""

import dataclasses

from trainers.runs.fields import free
from trainers.runs.settings import MOST_IN_A_BATCH, BackboneSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectionSettings(BackboneSettings):
    """A backbone and the images whose features it gives."""

    batch_size: int = free(
        256, "Images per batch during feature extraction.", least=1, most=MOST_IN_A_BATCH
    )


def check_ending(name: str, value: str | None, endings: tuple[str, ...]) -> None:
    """Raises ValueError unless the value, if there is one, ends in one of the endings."""
    if value is not None and not value.lower().endswith(endings):
        raise ValueError(
            f"--{name} must end in {', '.join(endings[:-1])}{' or ' * (len(endings) > 1)}"
            f"{endings[-1]}. Received: --{name}={value}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeaturesSettings(CollectionSettings):
    """The flags of `trainers.features`."""

    out: str = free("features.npz", "File to write: .npz, .csv or .parquet.")
    whiten: bool = free(
        False, "Whiten the features, by the statistics of the training images among them."
    )

    def __post_init__(self):
        super().__post_init__()
        check_ending("out", self.out, (".npz", ".csv", ".parquet"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings(CollectionSettings):
    """The flags of `trainers.search`."""

    query: tuple[str, ...] = free(
        (),
        "Image file whose neighbors are searched; give the flag several times for several.",
        repeated=True,
    )
    k: int = free(10, "Number of neighbors.", least=1)
    whiten: bool = free(
        True, "Compare whitened features, by the statistics of the training images searched."
    )
    out: str | None = free(None, "PNG file of the queries and their neighbors. Default: none.")

    def __post_init__(self):
        super().__post_init__()
        check_ending("out", self.out, (".png",))
        if not self.query:
            raise ValueError("--query is needed: an image file. Received: none.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(CollectionSettings):
    """The flags of `trainers.duplicates`."""

    similarity: float = free(
        0.9,
        "Cosine similarity from which on two images are near-duplicates; see docs/features.md.",
        above=0,
        most=1,
    )
    whiten: bool = free(
        True, "Compare whitened features, by the statistics of the training images among them."
    )
    out: str = free(
        "duplicates.csv", "CSV file of the groups; a picture of the largest lies beside it, as PNG."
    )

    def __post_init__(self):
        super().__post_init__()
        check_ending("out", self.out, (".csv",))
