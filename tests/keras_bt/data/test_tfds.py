import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_imagenet import SYNSETS, write_archives

from keras_bt.data import evaluation_batches, pretraining_views
from keras_bt.data.decoding import DataError
from keras_bt.data.encoded import BytesSource
from keras_bt.data.specs import open_source
from keras_bt.data.tfds import RecordSource

PER_CLASS = 8


def jpeg(value):
    """A photograph of fog: one gray, in a size of its own."""
    file = io.BytesIO()
    Image.new("RGB", (20 + value, 30), (value,) * 3).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """ImageNet in small, in the official archives; training image n has the value 10 · n."""
    folder = tmp_path_factory.mktemp("tfds")
    train = [[jpeg(10 * (PER_CLASS * label + n)) for n in range(PER_CLASS)] for label in range(3)]
    validation = [jpeg(200 + n) for n in range(1, 6)]
    write_archives(folder, train, validation, test=[jpeg(101), jpeg(102)])
    return str(folder)


@pytest.fixture(params=["in memory", pytest.param("streamed", marks=pytest.mark.slow)])
def imagenet(request, data_dir):
    cache = {} if request.param == "in memory" else {"cache_bytes": 0}
    return open_source("tfds:imagenet2012", data_dir, **cache)


class Look:
    """A stand-in for `augmentations.View` that cuts nothing and changes nothing."""

    def crop(self, inputs):
        pixel = tf.cast(inputs["images"][0, 0], tf.float32)
        return {"images": tf.broadcast_to(pixel, [4, 4, 3])}

    def rest(self, images, seed):
        return images


def numbers(views):
    """The numbers of the images in batches of views: (steps, batch)."""
    return np.round(np.stack([a for a, _ in views])[..., 0, 0, 0] / 10).astype(int)


def test_imagenet_from_its_archives(imagenet):
    train, test = imagenet
    assert (train.num_examples, test.num_examples) == (24, 5)
    assert train.class_names[:3] == SYNSETS
    assert len(train.class_names) == 1000
    # The test set exists, but its labels are secret.
    assert test.name.endswith(":validation")
    np.testing.assert_array_equal(np.bincount(train.labels()), [8] * 3)


def test_evaluation_sees_every_image_once_with_its_label(imagenet):
    train, test = imagenet
    batches = evaluation_batches(train, 16, 10, mean=(0, 0, 0), std=(1 / 255,) * 3)
    images, labels = map(np.concatenate, zip(*batches.as_numpy_iterator(), strict=True))
    found = np.round(images[:, 0, 0, 0] / 10).astype(int)
    assert sorted(found) == list(range(24))
    np.testing.assert_array_equal(labels, found // PER_CLASS)
    np.testing.assert_array_equal(labels, train.labels())
    (_, labels), *_ = evaluation_batches(test, 16, 10)
    np.testing.assert_array_equal(labels, test.labels())


def test_the_order_is_a_function_of_the_seed_and_the_epoch(imagenet):
    train, _ = imagenet

    def run(seed, **options):
        return pretraining_views(train, Look(), Look(), 6, seed, **options)

    steps = numbers(run(1).take(9))
    first, second = steps[:4].ravel(), steps[4:8].ravel()
    assert sorted(first) == sorted(second) == list(range(24))
    assert tuple(first) != tuple(second)
    for first_step in (1, 4, 6):
        tail = run(1, first_step=first_step).take(9 - first_step)
        np.testing.assert_array_equal(numbers(tail), steps[first_step:])
    # Nothing else has a say: neither the global seed nor the number of threads.
    tf.random.set_seed(99)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    np.testing.assert_array_equal(numbers(run(1).take(9).with_options(options)), steps)
    assert (numbers(run(2).take(4)) != steps[:4]).any()


@pytest.mark.slow
def test_workers_share_an_epoch(imagenet):
    train, _ = imagenet
    shards = [
        numbers(
            pretraining_views(
                train, Look(), Look(), 6, seed=1, shard_index=index, num_shards=2
            ).take(8)
        )
        for index in range(2)
    ]
    together = np.concatenate(shards, axis=1)
    assert together.shape == (8, 6)
    assert sorted(together[:4].ravel()) == sorted(together[4:].ravel()) == list(range(24))


@pytest.mark.slow
def test_workers_read_files_of_their_own(data_dir):
    train, _ = open_source("tfds:imagenet2012", data_dir, cache_bytes=0)
    # As if the records were in four files: tfds puts so few of them into one.
    take = [5, 7, 6, 6]
    files = train.records.files * 4
    train.records = dataclasses.replace(train.records, files=files, skip=[0, 5, 12, 18], take=take)
    owner = np.repeat(range(4), take)
    batches = evaluation_batches(train, 16, 24, mean=(0, 0, 0), std=(1 / 255,) * 3)
    in_order = np.round(next(iter(batches))[0][:, 0, 0, 0] / 10).astype(int)
    file_of = dict(zip(in_order, owner, strict=True))
    epochs = []
    for index in range(2):
        views = pretraining_views(
            train, Look(), Look(), 12, seed=1, shard_index=index, num_shards=2
        )
        steps = numbers(views.take(16)).reshape(8, 12)
        epochs.append([{file_of[number] for number in epoch} for epoch in steps])
    for own, others in zip(*epochs, strict=True):
        assert own.isdisjoint(others)
        assert own | others == {0, 1, 2, 3}
    # Which worker reads which file changes from epoch to epoch.
    assert len(set(map(frozenset, epochs[0]))) > 1


def test_a_subset_is_read_into_memory(imagenet):
    train, _ = imagenet
    indices = np.array([20, 3, 11])
    subset = train.subset(indices)
    assert isinstance(subset, BytesSource)
    np.testing.assert_array_equal(subset.labels(), train.labels()[indices])
    assert subset.class_names == train.class_names

    def values(source):
        images = source.in_order().map(source.decode)
        return np.array([image[0, 0, 0] for image, _, _ in images.as_numpy_iterator()])

    np.testing.assert_array_equal(values(subset), values(train)[indices])


@pytest.mark.slow
def test_parts_of_splits(data_dir):
    train, test = open_source("tfds:imagenet2012:train[:25%]", data_dir)
    assert train.num_examples == 6
    assert test.num_examples == 5
    train, test = open_source("tfds:imagenet2012:5.1.0:validation", data_dir)
    assert train.num_examples == 5
    assert test is None  # not what was trained on
    hidden, _ = open_source("tfds:imagenet2012:test", data_dir)
    assert hidden.class_names is None


@pytest.mark.slow
def test_unreadable_records_are_named(data_dir, monkeypatch):
    train, _ = open_source("tfds:imagenet2012", data_dir, cache_bytes=0)
    assert isinstance(train, RecordSource)
    parse = type(train.records).parse

    def with_a_broken_one(self, record, place):
        encoded, key, label = parse(self, record, place)
        return tf.where(key == "n01443537_2.JPEG", b"broken", encoded), key, label

    monkeypatch.setattr(type(train.records), "parse", with_a_broken_one)
    steps = numbers(pretraining_views(train, Look(), Look(), 6, seed=1).take(4))
    assert train.unreadable.names == ("n01443537_2.JPEG",)
    expected = set(range(24)) - {PER_CLASS + 2}
    assert set(steps.ravel()) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:imagnet2012", r"Received: imagnet2012; did you mean .*imagenet2012"),
        ("tfds:imagenet2012:tarin", "train, validation, test.*Received: tarin"),
        ("tfds:imagenet2012:train[:0%]", "at least one image"),
        ("tfds:imagenet2012:9.9.9", "tfds cannot open imagenet2012:9.9.9: .*5.1.0"),
        ("tfds:imagenet2012_subset/2pct", "tfds cannot open .*1pct"),
        ("tfds:glue", "an image in every example.*Received: tfds:glue/cola"),
        ("tfds::", r"named tfds:NAME\[:SPLIT\]"),
    ],
)
def test_unknown_data_sets_and_splits_are_refused(data_dir, spec, message):
    with pytest.raises(DataError, match=message) as error:
        open_source(spec, data_dir)
    assert "\n" not in str(error.value)


def test_missing_archives_are_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar") as error:
        open_source("tfds:imagenet2012", str(tmp_path))
    assert "\n" not in str(error.value)
