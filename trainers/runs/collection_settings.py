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
