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

from keras_bt.data.decoding import DataError, Decoder, Decoding, printable
from keras_bt.data.encoded import CACHE_BYTES, BytesSource
from keras_bt.data.fingerprint import fingerprint
from keras_bt.data.sampler import Order
from keras_bt.data.sources import Integers, Source
from keras_bt.data.tfds_features import Features, chosen_features
from keras_bt.typing import Tensor

# In encoded images: 1.1 GB of ImageNet.
_SHUFFLE_BUFFER = 10_000
_FILES_READ_TOGETHER = 16
# One image may belong to no class; if a hundred do, the labels are withheld.
_LABELS_LOOKED_AT = 100
_LABELS_TOGETHER = 1024
_TEST_SPLITS = ("test", "validation", "valid", "val")
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
        image_feature: the feature that holds the images; by default `image`, or the only one.
        label_feature: the feature that holds the labels: a class, a list of classes or an integer.
            By default `label`, `labels`, or the only one that is a class or a list of classes.

    Returns:
        The training source and the test source. The latter is the first of the splits `test`,
        `validation`, `valid` and `val` that has labels, or None. A split named in SPLIT is not
        used for testing. Labels that are lists of classes, as those of `voc/2007`, give
        `multilabel` sources; of integer labels, every distinct value in SPLIT is a class.

    Raises:
        DataError: if there is no such data set, split or feature, it cannot be prepared, or the
            test set has integer labels that the training set lacks.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DataError(f"A tfds data set is named tfds:NAME[:SPLIT]. Received: tfds:{spec}.")
    split = match["split"] or "train"
    builder = _builder(match["name"], data_dir)
    chosen_features(builder, image_feature, label_feature)  # before hours of downloading
    _check_split(builder, split)
    _prepare(builder, match["name"])
    features = chosen_features(builder, image_feature, label_feature)  # names of classes are known
    train = _open_split(builder, split, features, cache_bytes, decoding)
    if features.values is not None:
        features = train.features
    features = features._replace(remarks=())
    for test_split in _TEST_SPLITS:
        trained_on = re.search(rf"\b({test_split}|all)\b", split)  # as in train+validation[:50%]
        if test_split in builder.info.splits and not trained_on:
            test = _open_split(builder, test_split, features, cache_bytes, decoding)
            if train.class_names is None or test.class_names is not None:
                return train.in_memory(), test.in_memory()
    return train.in_memory(), None


def _builder(name, data_dir):
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders()
        near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise DataError(
            f"tfds: needs a data set that TensorFlow Datasets knows. Received: {name}{hint}"
        ) from error
    except Exception as error:  # an unknown config or version: of any type
        raise DataError(f"tfds cannot open {name}: {_one_line(error)}") from error


def _prepare(builder, name):
    try:
        builder.download_and_prepare()
    # AssertionError: ImageNet's builder if the archives are missing.
    except Exception as error:
        raise DataError(
            f"tfds cannot prepare {name} in {builder.data_dir}: {_one_line(error)}"
        ) from error


def _one_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:500] or type(error).__name__


def _check_split(builder, split):
    """Refuses a split that does not exist, as far as that is known of an unprepared data set."""
    splits = builder.info.splits
    try:
        if not splits:  # its names are in the code that prepares it, and tfds is offline
            tfds.core.ReadInstruction.from_spec(split)
        elif splits[split].num_examples:
            return
    except Exception as error:  # KeyError, ValueError or AssertionError, depending on what is wrong
        known = f"The splits of {builder.info.full_name} are {', '.join(splits)}, and parts"
        raise DataError(
            f"{known if splits else 'A split is named train, test and the like, or parts'} of them "
            f"such as train[:10%]. Received: {split}."
        ) from error
    if splits:
        raise DataError(
            "There must be at least one image. "
            f"Received: tfds:{builder.info.full_name}:{split}, which has none."
        )


def _open_split(builder, split, features, cache_bytes, decoding):
    """Returns a source of the images of a split, without labels if they are kept secret."""
    _check_split(builder, split)

    def read(features):
        return RecordSource(builder, split, features, cache_bytes, decoding)

    source = read(features)
    if features.class_names is None:
        return source
    if features.values is not None:
        return read(_with_values(features, read(features.as_they_are()).labels(), source.name))
    labels = (source if source.is_cheap() else source.sample(_LABELS_LOOKED_AT, 0)).labels()
    # Labels that are kept secret, as in the test sets of challenges, are -1 or empty lists. One
    # image may belong to no class; if a hundred do, the labels are withheld.
    if source.multilabel:
        return source if labels.any() else read(features.unlabelled())
    secret = np.count_nonzero(labels < 0)
    if 0 < secret < len(labels):
        remark = f"Labels are not used: {secret:,} of {len(labels):,} looked at are missing (-1)."
        return read(features.unlabelled(remark))
    return read(features.unlabelled()) if secret else source


def _with_values(features, labels, name):
    """Makes classes of integer labels, or looks whether they are those of the training set."""
    values = np.unique(labels)
    if list(values) == [-1]:
        return features.unlabelled()
    if not len(features.values):
        return features._replace(values=values, class_names=tuple(map(str, values)))
    if len(unknown := np.setdiff1d(values, features.values)):
        raise DataError(
            "The test set must have the labels of the training set. Received: "
            f"{features.labels[0]}={unknown[0]} in {name}, which is not one of them."
        )
    return features


class RecordSource(Source):
    """The records of a prepared data set, read sequentially.

    Args:
        builder: `tfds.core.DatasetBuilder` of the data set.
        split: name of a split, or of parts of splits.
        features: what to read of each record.
        cache_bytes: decoded images up to this size are kept in memory.
        decoding: how image files become pixels; by default `Decoding()`.

    Raises:
        DataError: if the records cannot be read.
    """

    def __init__(
        self,
        builder: Any,
        split: str,
        features: Features,
        cache_bytes: int,
        decoding: Decoding | None = None,
    ):
        if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
            raise DataError(
                "The data set must be prepared as tfrecord files. Received: "
                f"tfds:{builder.info.full_name} as {builder.info.file_format.value}."
            )
        name, info = f"tfds:{builder.info.full_name}:{split}", builder.info.splits[split]
        known = dict(builder.info.features)
        texts = [name for name in known if isinstance(known[name], tfds.features.Text)]
        keys = ("file_name", "filename", "image/filename", "id")
        self._key = next((name for name in keys if name in texts), None)
        labels = {name: known[name] for name in features.labels}
        # Only what we use: masks and captions need not be decoded.
        wanted = {name: known[name] for name in (features.image, self._key) if name} | labels
        self._examples = tfds.features.FeaturesDict(wanted)
        self._only_labels = tfds.features.FeaturesDict(labels)
        self._label_array: np.ndarray | None = None
        self.features = features
        self.remarks = features.remarks
        self.files = list(info.file_instructions)  # each with its records to skip and to take
        self.cache_bytes = cache_bytes
        shape = known[features.image].shape[-3:-1]  # after the frames, if there are any
        super().__init__(
            name,
            info.num_examples,
            features.class_names,
            None if None in shape else (*shape, 3),
            Decoder(name, info.num_examples, decoding),
            multilabel=features.multilabel,
        )

    def is_cheap(self) -> bool:
        """Tells whether all images fit in memory, going by the size of their records."""
        # Decoded, images take at least about three times the space: see `EncodedSource.cached`.
        return self.num_bytes() <= self.cache_bytes // 3

    def in_memory(self) -> Source:
        """Returns the same images as encoded bytes in memory if they fit, else this source."""
        return self.subset(range(self.num_examples)) if self.is_cheap() else self

    def num_bytes(self) -> float:
        """Returns the size of the records to read; of a partly read file, its share."""
        return sum(
            size * file.take / file.examples_in_shard
            for size, file in zip(self._sizes(), self.files, strict=True)
        )

    def _sizes(self):
        return [tf.io.gfile.stat(str(file.filename)).length for file in self.files]

    def fingerprint(self) -> str:
        """See `Source.fingerprint`; from names, the sizes of files, and how they are read."""
        names = [os.path.basename(str(file.filename)) for file in self.files]
        skip, take = [file.skip for file in self.files], [file.take for file in self.files]
        return fingerprint(
            *(self.name, names, self._sizes(), skip, take),
            *(self.features.image, self.features.labels, self.features.values),
            self.decoder.decoding.identity(),
        )

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

    def key(self, *reference: Tensor) -> Tensor:
        """See `Source.key`; the name of the image."""
        return self.parse(*reference)[1]

    def names(self, keys: np.ndarray) -> list[str]:
        """See `Source.names`; what tells images apart in the data set, or their places in it."""
        return [printable(key) for key in keys]

    def parse(self, record: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parses a record to an encoded image, its name and its label (-1 without labels)."""
        image = self.features.image
        decoders = {image: tfds.decode.SkipDecoding()}
        example = self._examples.deserialize_example(record, decoders=decoders)
        key = example[self._key] if self._key else place
        return example[image], key, self._label(example)

    def _label(self, example):
        if self.class_names is None:
            return tf.constant(-1, tf.int64)
        if not self.multilabel:
            label, values = (
                tf.cast(example[self.features.labels[0]], tf.int64),
                self.features.values,
            )
            if values is None or not len(values):
                return label
            return tf.searchsorted(values, label[None], out_type=tf.int64)[0]
        present, *counted = (
            tf.reduce_any(tf.one_hot(example[name], len(self.class_names), True, False), axis=0)
            for name in self.features.labels
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
            batches = labels.batch(_LABELS_TOGETHER).as_numpy_iterator()
            self._label_array = np.concatenate(list(batches)).astype(np.int64)
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
        part = BytesSource(
            encoded,
            keys,
            labels=labels if self.class_names else None,
            name=self.name,
            image_shape=self.image_shape,
            cache_bytes=self.cache_bytes,
            class_names=self.class_names,
            decoder=self.decoder,
        )
        part.remarks = self.remarks
        return part


def _read(path, skip, take):
    name = tf.strings.split(path, os.sep)[-1]
    numbered = tf.data.TFRecordDataset(path).enumerate().skip(skip).take(take)
    return numbered.map(
        lambda number, record: (record, tf.strings.join([name, "#", tf.strings.as_string(number)]))
    )
