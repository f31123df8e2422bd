"""Data sets prepared by TensorFlow Datasets, ImageNet among them."""

import copy
import dataclasses
import difflib
import os
import re
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds  # takes seconds: only `kinds` imports this file, if asked for it

from keras_bt.data.decoding import DataError, Decoder, Decoding
from keras_bt.data.encoded import CACHE_BYTES, BytesSource
from keras_bt.data.fingerprint import fingerprint
from keras_bt.data.sampler import Order
from keras_bt.data.sources import Integers, Source
from keras_bt.typing import Tensor

# In encoded images: 1.1 GB of ImageNet.
_SHUFFLE_BUFFER = 10_000
_FILES_READ_TOGETHER = 16
# One image may belong to no class; if a hundred do, the labels are withheld.
_LABELS_LOOKED_AT = 100
_SPEC = re.compile(r"(?P<name>[^:\[\]]+(:[\d*]+\.[\d*]+\.[\d*]+)?)(:(?P<split>[^\d*].*))?")


def open_tfds(
    spec: str,
    data_dir: str | None,
    cache_bytes: int = CACHE_BYTES,
    decoding: Decoding | None = None,
    image_feature: str | None = None,
    label_feature: str | None = None,
) -> tuple[Source, Source | None]:
    """Opens a data set of TensorFlow Datasets, preparing it first if necessary.

    Args:
        spec: `NAME[/CONFIG][:VERSION][:SPLIT]`, e.g. `imagenet2012`,
            `imagenet2012_subset/1pct`, `mnist:train[:10%]`. SPLIT is `train` by default.
        data_dir: folder of the prepared data sets; by default that of tfds. Archives that must
            be downloaded by hand go into its `downloads/manual`.
        cache_bytes: decoded images up to this size are kept in memory.
        decoding: how image files become pixels; by default `Decoding()`.
        image_feature: the feature that holds the images.
        label_feature: the feature that holds the labels.

    Returns:
        The training source and the test source. The latter is the split `test` or, if that is
        missing or without labels, `validation`; None if neither exists. A split named in SPLIT
        is not used for testing. A data set whose feature `labels` is a list of classes, such as
        `voc/2007`, gives `multilabel` sources.

    Raises:
        DataError: if there is no such data set or split, or it cannot be prepared.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DataError(f"A tfds data set is named tfds:NAME[:SPLIT]. Received: tfds:{spec}.")
    split = match["split"] or "train"
    builder = _prepared_builder(match["name"], data_dir)
    train = _open_split(builder, split, cache_bytes, decoding)
    for test_split in ("test", "validation"):
        trained_on = re.search(rf"\b({test_split}|all)\b", split)  # as in train+validation[:50%]
        if test_split in builder.info.splits and not trained_on:
            test = _open_split(builder, test_split, cache_bytes, decoding)
            if train.class_names is None or test.class_names is not None:
                return train, test
    return train, None


def _prepared_builder(name, data_dir):
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders()
        near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise DataError(
            f"tfds: needs a data set that TensorFlow Datasets knows. Received: {name}{hint}"
        ) from error
    except Exception as error:  # an unknown config or version: of any type
        raise DataError(f"tfds cannot open {name}: {_one_line(error)}") from error
    _image_features(builder)  # before hours of downloading
    try:
        builder.download_and_prepare()
    # AssertionError: ImageNet's builder if the archives are missing.
    except Exception as error:
        raise DataError(
            f"tfds cannot prepare {name} in {builder.data_dir}: {_one_line(error)}"
        ) from error
    return builder


def _image_features(builder):
    features = builder.info.features
    images = [name for name in features if isinstance(features[name], tfds.features.Image)]
    if not images:
        raise DataError(
            "The data set must have an image in every example. "
            f"Received: tfds:{builder.info.full_name}, which has {', '.join(features)}."
        )
    return images


def _one_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:500] or type(error).__name__


def _open_split(builder, split, cache_bytes, decoding):
    name = f"tfds:{builder.info.full_name}:{split}"
    try:
        info = builder.info.splits[split]
    except Exception as error:  # KeyError, ValueError or AssertionError, depending on what is wrong
        raise DataError(
            f"The splits of {builder.info.full_name} are {', '.join(builder.info.splits)}, and "
            f"parts of them such as train[:10%]. Received: {split}."
        ) from error
    if not info.num_examples:
        raise DataError(f"There must be at least one image. Received: {name}, which has none.")
    source = RecordSource(builder, info, name, cache_bytes, decoding)
    if source.class_names is not None:
        some = source.sample(_LABELS_LOOKED_AT, 0).labels()
        # Labels that are kept secret, as in the test sets of challenges, are -1 or empty lists.
        if not some.any() if source.multilabel else some[0] < 0:
            source = RecordSource(builder, info, name, cache_bytes, decoding, labelled=False)
    # Decoded, images take at least about three times the space: see `EncodedSource.cached`.
    small = source.num_bytes() <= cache_bytes // 3
    return source.subset(range(source.num_examples)) if small else source


def _labels_among(features):
    """Finds the features that hold labels, by name, and the names of the classes, or None.

    - `label`, a class: one label per image.
    - `labels`, a list of classes: several labels per image. If there is `labels_no_difficult`
      too, as in PASCAL VOC, it lists the classes of which the image shows an object that is not
      marked as difficult. Classes in the first list alone do not count: finding them is neither
      right nor wrong (VOC2007 devkit, "difficult" in the image sets).
    """
    one, several = features.get("label"), features.get("labels")
    if isinstance(one, tfds.features.ClassLabel):
        return {"label": one}, one.names
    classes = several.feature if isinstance(several, tfds.features.Sequence) else None
    if isinstance(classes, tfds.features.ClassLabel):
        names = [name for name in ("labels", "labels_no_difficult") if name in features]
        return {name: features[name] for name in names}, classes.names
    return {}, None


class RecordSource(Source):
    """The records of a prepared data set, read sequentially.

    Args:
        builder: `tfds.core.DatasetBuilder` of the data set.
        split: `tfds.core.SplitInfo` of the images.
        name: name of the source in messages.
        cache_bytes: decoded images up to this size are kept in memory.
        decoding: how image files become pixels; by default `Decoding()`.
        labelled: whether to read the labels, if there are any.

    Raises:
        DataError: if the records cannot be read, or contain no images.
    """

    def __init__(
        self,
        builder: Any,
        split: Any,
        name: str,
        cache_bytes: int,
        decoding: Decoding | None = None,
        labelled: bool = True,
    ):
        if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
            raise DataError(
                "The data set must be prepared as tfrecord files. Received: "
                f"tfds:{builder.info.full_name} as {builder.info.file_format.value}."
            )
        features = dict(builder.info.features)
        images = _image_features(builder)
        self._image = "image" if "image" in images else images[0]
        labels, class_names = _labels_among(features) if labelled else ({}, None)
        texts = [name for name in features if isinstance(features[name], tfds.features.Text)]
        keys = ("file_name", "filename", "image/filename", "id")
        self._key = next((name for name in keys if name in texts), None)
        # Only what we use: masks and captions need not be decoded.
        wanted = {name: features[name] for name in (self._image, self._key) if name} | labels
        self._examples = tfds.features.FeaturesDict(wanted)
        self._only_labels = tfds.features.FeaturesDict(labels)
        self._label_array: np.ndarray | None = None
        self.files = list(split.file_instructions)  # each with its records to skip and to take
        self.cache_bytes = cache_bytes
        shape = features[self._image].shape[:2]
        super().__init__(
            name,
            split.num_examples,
            class_names,
            None if None in shape else (*shape, 3),
            Decoder(name, split.num_examples, decoding),
            multilabel="labels" in labels,
        )

    def num_bytes(self) -> float:
        """Returns the size of the records to read; of a partly read file, its share."""
        return sum(
            size * file.take / file.examples_in_shard
            for size, file in zip(self._sizes(), self.files, strict=True)
        )

    def _sizes(self):
        return [tf.io.gfile.stat(str(file.filename)).length for file in self.files]

    def fingerprint(self) -> str:
        """See `Source.fingerprint`; from the name of the data set and the sizes of its files."""
        names = [os.path.basename(str(file.filename)) for file in self.files]
        skip, take = [file.skip for file in self.files], [file.take for file in self.files]
        labelled = self.class_names is not None
        return fingerprint(self.name, names, self._sizes(), skip, take, self._image, labelled)

    def in_order(self) -> tf.data.Dataset:
        """See `Source.in_order`; the records, file by file, each with its place."""
        return self._files().flat_map(_read)

    def in_run(self, order: Order) -> tf.data.Dataset:
        """See `Source.in_run`; each worker reads files of its own, through a shuffle buffer."""
        return order.records(self._shuffled)

    def _shuffled(self, seed, shard_index, num_shards):
        """Returns an endless stream of one shard's records, each with its place.

        The files are taken in a random order, the same for all shards. Each shard reads every
        num_shards-th file, or every num_shards-th record if there are too few files. When all are
        read, they are read again: shards may differ by some records, but their epochs must not.
        """
        order = tf.argsort(tf.random.stateless_uniform([len(self.files)], seed))
        files = self._files(order)
        by_file = len(self.files) >= num_shards
        if by_file:
            files = files.shard(num_shards, shard_index)
        records = files.interleave(
            _read,
            cycle_length=_FILES_READ_TOGETHER,
            block_length=_FILES_READ_TOGETHER,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if not by_file:
            records = records.shard(num_shards, shard_index)
        # Dataset.shuffle mixes TensorFlow's global seed into its own. Fixed here, inside the
        # function of one epoch, the order depends on our seed alone.
        tf.compat.v1.set_random_seed(1)
        draw = tf.random.stateless_uniform([], seed, minval=0, maxval=2**31 - 1, dtype=tf.int64)
        return records.shuffle(_SHUFFLE_BUFFER, seed=draw).repeat()

    def _files(self, order=None):
        """Returns a data set of (path, records to skip, records to take), in a given order."""
        columns = zip(*((str(f.filename), f.skip, f.take) for f in self.files), strict=True)
        return tf.data.Dataset.from_tensor_slices(
            tuple(c if order is None else tf.gather(c, order) for c in map(np.array, columns))
        )

    def decode(
        self, *reference: Tensor, stop: bool = True, look: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Source.decode`; takes a record and its place."""
        encoded, key, label = self.parse(*reference)
        return *self.decoder.bytes(encoded, key, stop, look), label

    def parse(self, record: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parses a record to an encoded image, its name and its label (-1 without labels)."""
        decoders = {self._image: tfds.decode.SkipDecoding()}
        example = self._examples.deserialize_example(record, decoders=decoders)
        key = example[self._key] if self._key else place
        return example[self._image], key, self._label(example)

    def _label(self, example):
        if self.class_names is None:
            return tf.constant(-1, tf.int64)
        if not self.multilabel:
            return example["label"]
        present, *counted = (
            tf.reduce_any(tf.one_hot(example[name], len(self.class_names), True, False), axis=0)
            for name in self._only_labels
        )
        label = tf.cast(present, tf.int64)
        uncounted = present & ~counted[0] if counted else False
        return tf.where(uncounted, tf.constant(-1, tf.int64), label)

    def _labels(self):
        if self._label_array is None:
            labels = self.in_order().map(
                lambda record, _: self._label(self._only_labels.deserialize_example(record)),
                tf.data.AUTOTUNE,
            )
            self._label_array = np.array(list(labels.as_numpy_iterator()), np.int64)
        return self._label_array

    def sample(self, count: int, seed: int) -> "RecordSource":
        """See `Source.sample`: tfds has shuffled its records, and to read them all takes long."""
        part = copy.copy(self)
        part.num_examples, part._label_array, part.files = min(count, self.num_examples), None, []
        for file in self.files:
            take = min(file.take, count)
            part.files.append(dataclasses.replace(file, take=take))
            count -= take
        return part

    def subset(self, indices: Integers) -> BytesSource:
        """Reads the images with the given numbers into memory, as encoded bytes.

        This reads all records once. To use part of a large data set, it is cheaper to name a part
        of the split, such as `tfds:NAME:train[:10%]`.
        """
        wanted = np.zeros(self.num_examples, bool)
        wanted[indices] = True
        chosen = (
            self.in_order()
            .enumerate()
            .filter(lambda number, _: tf.constant(wanted)[number])
            .map(lambda number, record: (number, self.parse(*record)), tf.data.AUTOTUNE)
        )
        read = {int(number): example for number, example in chosen.as_numpy_iterator()}
        encoded, keys, labels = zip(*(read[int(index)] for index in indices), strict=True)
        return BytesSource(
            encoded,
            keys,
            labels=labels if self.class_names else None,
            name=self.name,
            image_shape=self.image_shape,
            cache_bytes=self.cache_bytes,
            class_names=self.class_names,
            decoder=self.decoder,
        )


def _read(path, skip, take):
    name = tf.strings.split(path, os.sep)[-1]
    numbered = tf.data.TFRecordDataset(path).enumerate().skip(skip).take(take)
    return numbered.map(
        lambda number, record: (record, tf.strings.join([name, "#", tf.strings.as_string(number)]))
    )
