"""A few labeled images for measuring a backbone once per epoch while it trains."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bt import data
from keras_bt.data.sources import Source
from keras_bt.data.subsets import subset_indices
from keras_bt.evaluation.features import extract_features, inference_function
from keras_bt.preprocessing import IMAGENET_MEAN, IMAGENET_STD, height_and_width
from keras_bt.typing import Size

# To fit on, features float32 (n, d) and labels int64 (n,); to measure on, (m, d) and (m,).
Features = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_CACHE_BYTES = 512 * 2**20


class LabelledSubset:
    """Labeled images to fit a classifier on, others to measure it on, and the features of both.

    Callbacks that measure accuracy share one: the first to run extracts the features of the epoch.
    They are extracted in inference mode into NumPy arrays, so nothing fitted on them can reach the
    backbone.

    >>> subset = LabelledSubset.of(train, test, image_size=16)  # 12 images each
    >>> train_features, train_labels, test_features, test_labels = subset.features(backbone)
    >>> train_features.shape, train_labels.shape
    ((12, 16), (12,))

    Args:
        train: finite (images, labels) batches to fit on: images as the backbone takes them, integer
            labels (b,).
        test: the same, to measure on.

    Raises:
        ValueError: when features are first extracted, if a data set is not of this kind.
    """

    def __init__(self, train: tf.data.Dataset, test: tf.data.Dataset):
        self._batches = train, test
        self._features: Any = None  # `Features`, once extracted
        self._traced: tuple[keras.Model, Any] | None = None

    @classmethod
    def of(
        cls,
        train: Source,
        test: Source,
        image_size: Size,
        max_train: int = 5000,
        max_test: int = 2000,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> "LabelledSubset":
        """Draws class-balanced subsets of labeled sources.

        With 5,000 of 50,000 training images, accuracies are lower than with all of them but rise
        and fall alike, at a tenth of the cost. Prepared images are kept in memory up to 512 MiB.

        If tfds records are too many for memory, the first ones are taken in their order, because
        drawing at random would mean reading them all. (tfds shuffles nearly all its data sets.)

        Args:
            train: images to fit on, one label each.
            test: images to measure on, one label each.
            image_size: (height, width) of the images that the backbone takes, in pixels, or one
                int for both.
            max_train: most images to fit on; the same number of each class, or all it has.
            max_test: most images to measure on.
            seed: seed of the draw.
            mean: of each channel, see `keras_bt.data.evaluation_batches`.
            std: of each channel, likewise.

        Returns:
            The subsets, not yet read.

        Raises:
            ValueError: if labels are missing, several per image or of a single class, or if
                `max_train` or `max_test` is below one.
        """
        parts: list[tf.data.Dataset] = []
        for source, limit in ((train, max_train), (test, max_test)):
            if limit < 1:
                raise ValueError(f"There must be at least one image. Received: {limit}.")
            if source.multilabel:
                raise ValueError(
                    "Accuracy needs images with one label each. "
                    f"Received: {source.name}, with several."
                )
            if not source.random_access:
                source = source.sample(limit, seed)
            elif limit < source.num_examples:
                source = source.subset(subset_indices(source.labels(), str(limit), seed))
            labels = source.labels()
            if not parts and len(np.unique(labels)) < 2:
                raise ValueError(
                    "Accuracy needs training images of at least two classes. "
                    f"Received: {source.name}, one class in {source.num_examples:,} images."
                )
            batches = data.evaluation_batches(source, image_size, 256, mean=mean, std=std)
            values = math.prod(height_and_width(image_size)) * source.channels
            if source.num_examples * values * 4 <= _CACHE_BYTES:
                batches = batches.cache()
            parts.append(batches)
        return cls(*parts)

    def forget(self) -> None:
        """Drops the features, because the backbone is about to change."""
        self._features = None

    def features(self, backbone: keras.Model) -> Features:
        """Returns the features and labels of both parts, extracted anew only after `forget`.

        Args:
            backbone: images (b, h, w, c) → features (b, d).
        """
        if self._traced is None or self._traced[0] is not backbone:
            self._traced = backbone, inference_function(backbone)
            self._features = None
        if self._features is None:
            train, test = (extract_features(self._traced[1], part) for part in self._batches)
            self._features = *train, *test
        return self._features
