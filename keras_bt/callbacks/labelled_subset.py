"""A few labeled images to watch a backbone by while it trains, looked at once per epoch."""

import numpy as np

from keras_bt import data
from keras_bt.data.subsets import subset_indices
from keras_bt.data.tfds import RecordSource
from keras_bt.evaluation.features import extract_features, inference_function

_CACHE_BYTES = 512 * 2**20


class LabelledSubset:
    """Labeled images to fit a classifier on and others to measure it on, and their features.

    Shared by the callbacks that measure accuracy: features are extracted once per epoch, by
    whichever comes first. In inference mode, as NumPy arrays: nothing that is fitted on them can
    reach the backbone.

    >>> subset = LabelledSubset.of(train, test, image_size=32)
    >>> model.fit(views, callbacks=[OnlineKNN(subset), OnlineLinear(subset), metrics_log])

    Args:
        train: finite `tf.data.Dataset` of (images, labels) batches to fit on: images as the
            backbone takes them, integer labels (b,).
        test: likewise, to measure on.

    Raises:
        ValueError: when features are first extracted, if a data set is no such one.
    """

    def __init__(self, train, test):
        self._batches = train, test
        self._features = None
        self._traced = None

    @classmethod
    def of(
        cls,
        train,
        test,
        image_size,
        resize=None,
        max_train=5000,
        max_test=2000,
        seed=0,
        batch_size=256,
    ):
        """Draws a class-balanced part of labeled sources.

        With 5,000 of 50,000 training images accuracies are lower than with all of them, but move
        alike, at a tenth of the price. Prepared images are kept in memory up to 512 MiB.

        Of tfds records too many for the memory the first ones are taken as they come, for to draw
        from them all of them would have to be read. (tfds shuffles nearly all its data sets.)

        Args:
            train: `keras_bt.data.Source` with one label per image.
            test: likewise.
            image_size: side of the images that the backbone takes, in pixels.
            resize: see `keras_bt.data.evaluation_batches`.
            max_train: int, images to fit on. Of every class as many, or all there are.
            max_test: int, images to measure on.
            seed: int, of the draw.
            batch_size: int, images per forward pass.

        Raises:
            ValueError: if there are no labels, several per image, one class only, or no images
                are wanted.
        """
        parts = []
        for source, limit in ((train, max_train), (test, max_test)):
            if limit < 1:
                raise ValueError(f"There must be at least one image. Received: {limit}.")
            if source.multilabel:
                raise ValueError(
                    "Accuracy needs images with one label each. "
                    f"Received: {source.name}, with several."
                )
            source, labels, num_images = _draw(source, limit, seed)
            if not parts and len(np.unique(labels)) < 2:
                raise ValueError(
                    "Accuracy needs training images of at least two classes. "
                    f"Received: {source.name}, one class in {num_images:,} images."
                )
            batches = data.evaluation_batches(source, image_size, batch_size, resize)
            batches = batches.take(-(-num_images // batch_size))
            if num_images * image_size**2 * 3 * 4 <= _CACHE_BYTES:
                batches = batches.cache()
            parts.append(batches)
        return cls(*parts)

    def forget(self):
        """Lets go of the features: the backbone is about to change."""
        self._features = None

    def features(self, backbone):
        """Features of the backbone as it is, extracted anew only after `forget`.

        Args:
            backbone: Keras model, images → (b, d).

        Returns:
            (train features float32 (n, d), labels int64 (n,), test features (m, d), labels (m,)).
        """
        if self._traced is None or self._traced[0] is not backbone:
            self._traced = backbone, inference_function(backbone)
            self._features = None
        if self._features is None:
            train, test = (extract_features(self._traced[1], part) for part in self._batches)
            self._features = *train, *test
        return self._features


def _draw(source, limit, seed):
    """A source that begins with the images to be taken, their labels, and their number."""
    if isinstance(source, RecordSource):
        source_labels = source.records.in_order().take(limit).map(source.records.parse_label)
        labels = np.array(list(source_labels.as_numpy_iterator()))
        return source, labels, len(labels)
    labels = source.labels()
    if limit < len(labels):
        chosen = subset_indices(labels, str(limit), seed)
        source, labels = source.subset(chosen), labels[chosen]
    return source, labels, len(labels)
