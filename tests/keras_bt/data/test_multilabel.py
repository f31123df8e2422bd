import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_voc

from keras_bt.data import ArraySource, evaluation_batches, pretraining_views
from keras_bt.data.decoding import DataError
from keras_bt.data.encoded import BytesSource
from keras_bt.data.specs import open_source
from keras_bt.evaluation.features import extract_features

# What is in each image, and whether it is difficult to see.
OBJECTS = {
    "train": [
        [("bird", False)],
        [("aeroplane", False), ("boat", True)],
        [("bicycle", True), ("bicycle", False)],
        [],
        [("boat", False), ("bird", True), ("bird", True)],
        [("aeroplane", False), ("bicycle", False), ("bird", False), ("boat", False)],
    ],
    "val": [[("boat", False)], [("bicycle", False)]],
    "test": [[("aeroplane", True)], [("bird", False)], [("boat", False)]],
}
# aeroplane, bicycle, bird, boat, and 16 classes more; -1 where all of a class are difficult.
LABELS = {
    split: np.pad(rows, [(0, 0), (0, 16)])
    for split, rows in {
        "train": [
            [0, 0, 1, 0],
            [1, 0, 0, -1],
            [0, 1, 0, 0],
            [0, 0, 0, 0],
            [0, 0, -1, 1],
            [1, 1, 1, 1],
        ],
        "val": [[0, 0, 0, 1], [0, 1, 0, 0]],
        "test": [[-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    }.items()
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    for year in ("2007", "2012"):
        tiny_voc.prepare(folder, year, OBJECTS)
    tiny_voc.Tags(data_dir=folder).download_and_prepare()
    return str(folder)


@pytest.fixture(params=["in memory", pytest.param("streamed", marks=pytest.mark.slow)])
def options(request):
    return {} if request.param == "in memory" else {"cache_bytes": 0}


def numbers(images):
    """Which images these are, by their gray."""
    return np.round(images[:, 0, 0, 0] / 10).astype(int)


def batches(source, size, image_size=16):
    data = evaluation_batches(source, image_size, size, mean=(0, 0, 0), std=(1 / 255,) * 3)
    return list(data.as_numpy_iterator())


def test_voc(data_dir, options):
    train, test = open_source("tfds:voc/2007", data_dir, **options)
    assert train.multilabel
    assert test.multilabel
    assert test.name.endswith(":test")
    assert train.class_names[:4] == ("aeroplane", "bicycle", "bird", "boat")
    for source, split in ((train, "train"), (test, "test")):
        labels = source.labels()
        assert labels.dtype == np.int64
        # Prepared data sets are shuffled.
        order = numbers(np.concatenate([images for images, _ in batches(source, 4)]))
        assert sorted(order) == list(range(source.num_examples))
        np.testing.assert_array_equal(labels, LABELS[split][order])


def test_evaluation_batches_have_a_row_of_labels_per_image(data_dir, options):
    train, _ = open_source("tfds:voc/2007", data_dir, **options)
    (images, labels), (last_images, last_labels) = batches(train, 4)
    assert (labels.shape, last_labels.shape, labels.dtype) == ((4, 20), (2, 20), np.int64)
    np.testing.assert_array_equal(labels, LABELS["train"][numbers(images)])
    np.testing.assert_array_equal(last_labels, LABELS["train"][numbers(last_images)])
    features, labels = extract_features(
        keras.layers.GlobalAveragePooling2D(), evaluation_batches(train, 16, 4)
    )
    assert features.shape == (6, 3)
    np.testing.assert_array_equal(labels, train.labels())


@pytest.mark.slow
def test_subsets_keep_the_rows(data_dir, options):
    train, _ = open_source("tfds:voc/2007", data_dir, **options)
    subset = train.subset([4, 0, 3])
    assert isinstance(subset, BytesSource)
    for source in (subset, subset.cached()):
        assert source.multilabel
        assert source.class_names == train.class_names
        np.testing.assert_array_equal(source.labels(), train.labels()[[4, 0, 3]])
        ((images, labels),) = batches(source, 3)
        np.testing.assert_array_equal(labels, LABELS["train"][numbers(images)])
    assert subset.subset([1, 2]).labels().shape == (2, 20)
    assert subset.subset([1, 2]).fingerprint() != subset.fingerprint()


@pytest.mark.slow
def test_splits(data_dir, options):
    train, test = open_source("tfds:voc/2007:train+validation", data_dir, **options)
    assert train.num_examples == 8
    assert len(train.labels()) == 8
    expected = np.concatenate([LABELS["train"], LABELS["val"]])
    assert sorted(train.labels().tolist()) == sorted(expected.tolist())
    assert test.name.endswith(":test")
    # Of 2012 the test labels are secret, and nobody is to be tested on what was trained on.
    train, test = open_source("tfds:voc/2012:train+validation[:50%]", data_dir, **options)
    assert (train.num_examples, train.multilabel, test) == (7, True, None)
    train, test = open_source("tfds:voc/2012", data_dir, **options)
    assert test.name.endswith(":validation")
    hidden, test = open_source("tfds:voc/2012:test", data_dir, **options)
    assert (hidden.multilabel, hidden.class_names) == (False, None)
    ((_, labels),) = batches(hidden, 3)
    np.testing.assert_array_equal(labels, [-1, -1, -1])
    assert open_source("tfds:voc/2007:all", data_dir, **options)[1] is None


def test_without_difficult_objects_every_label_counts(data_dir, options):
    train, test = open_source("tfds:tags", data_dir, **options)
    assert train.multilabel
    assert test is None
    # That the first image has no label does not mean that labels are secret.
    expected = [[0, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert sorted(train.labels().tolist()) == expected


def test_an_unreadable_image_is_named_by_its_file(data_dir, monkeypatch):
    train, _ = open_source("tfds:voc/2007", data_dir, cache_bytes=0)
    keys = train.in_order().map(lambda *record: train.records.parse(*record)[1])
    assert b"train_000003.jpg" in list(keys.as_numpy_iterator())


class Look:
    """A stand-in for `augmentations.View` that cuts nothing and changes nothing."""

    def crop(self, inputs):
        pixel = tf.cast(inputs["images"][0, 0], tf.float32)
        return {"images": tf.broadcast_to(pixel, [4, 4, 3])}

    def rest(self, images, seed):
        return images


@pytest.mark.slow
def test_pretraining_ignores_the_labels(data_dir, options):
    train, _ = open_source("tfds:voc/2007", data_dir, **options)
    views = pretraining_views(train, Look(), Look(), 2, seed=1)
    epoch = [numbers(view) for view, _ in views.take(3).as_numpy_iterator()]
    assert sorted(np.concatenate(epoch)) == list(range(6))


def test_arrays_may_have_several_labels_per_image():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 3), 10, np.uint8)
    labels = [[1, 0], [-1, 1], [0, 0]]
    source = ArraySource(images, labels, ["cat", "dog"])
    assert source.multilabel
    ((_, found),) = batches(source, 5, image_size=8)  # small enough to be gathered as a batch
    np.testing.assert_array_equal(found, labels)
    assert source.subset([1]).labels().tolist() == [[-1, 1]]
    assert not ArraySource(images, [0, 1, 1], ["cat", "dog"]).multilabel
    assert not ArraySource(images).multilabel
    with pytest.raises(DataError, match=r"column per class name.*\(3, 2\) for 3 class names"):
        ArraySource(images, labels, ["cat", "dog", "cow"])
