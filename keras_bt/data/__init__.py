"""Sources of images, and batches of them: views for training, center crops for evaluation."""

from keras_bt.data.arrays import ArraySource
from keras_bt.data.decoding import DataError, Decoding
from keras_bt.data.evaluation import (
    evaluation_batches,
    evaluation_resize,
    raw_pixels,
    reading,
)
from keras_bt.data.labelled import check_labelled, labelled_features, labelled_views
from keras_bt.data.looking import remarks
from keras_bt.data.paired import check_paired, paired_views, pairs_per_epoch
from keras_bt.data.pairs import Pairs, draw_pairs
from keras_bt.data.pretraining import check_pretraining, pretraining_views
from keras_bt.data.sources import Source
from keras_bt.data.specs import open_source
from keras_bt.data.subsets import balanced_indices, labelled_subset, subset_indices
from keras_bt.data.verification import PairedPart, PairedParts, paired_parts
from keras_bt.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    center_crop,
    normalization,
    normalize,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ArraySource",
    "DataError",
    "Decoding",
    "PairedPart",
    "PairedParts",
    "Pairs",
    "Source",
    "balanced_indices",
    "center_crop",
    "check_labelled",
    "check_paired",
    "check_pretraining",
    "draw_pairs",
    "evaluation_batches",
    "evaluation_resize",
    "labelled_features",
    "labelled_subset",
    "labelled_views",
    "normalization",
    "normalize",
    "open_source",
    "paired_parts",
    "paired_views",
    "pairs_per_epoch",
    "pretraining_views",
    "raw_pixels",
    "reading",
    "remarks",
    "subset_indices",
]
