"""Settings of `trainers.explore`."""

import dataclasses

from trainers.runs.collection_settings import CollectionSettings, check_ending
from trainers.runs.fields import free


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExploreSettings(CollectionSettings):
    """The flags: which images, and what the page shows of them."""

    out: str | None = free(None, "HTML file to write. Default: explore.html beside the backbone.")
    images: int = free(
        20_000, "Most images on the page; of more, so many are drawn at random.", least=2
    )
    map: str = free(
        "tsne",
        "How images are placed: tsne keeps similar ones together and takes a minute per 10,000 "
        "images; pca takes seconds.",
        choices=("tsne", "pca"),
    )
    clusters: int | None = free(
        None,
        "Number of clusters. Default: as many as classes, or about the root of half the images.",
        least=1,
    )
    label_first: int = free(100, "Number of images to suggest for labeling.", least=1)
    seed: int = free(
        0,
        "Seed for the images drawn, the map, the clusters and the probe.",
        least=0,
        most=2**31 - 1,
    )

    def __post_init__(self):
        super().__post_init__()
        check_ending("out", self.out, (".html", ".htm"))
