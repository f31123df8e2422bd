import keras
import numpy as np
import pytest
import tiny_voc
from numbered_images import Look, numbers, values

from keras_bt.data import ArraySource, evaluation_batches, pretraining_views
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
ROWS = {
    "train": "0 0 1 0; 1 0 0 -1; 0 1 0 0; 0 0 0 0; 0 0 -1 1; 1 1 1 1",
    "val": "0 0 0 1; 0 1 0 0",
    "test": "-1 0 0 0; 0 0 1 0; 0 0 0 1",
}
LABELS = {
    split: np.pad(np.array([row.split() for row in rows.split(";")], int), [(0, 0), (0, 16)])
    for split, rows in ROWS.items()
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    for year in ("2007", "2012"):
        tiny_voc.prepare(folder, year, OBJECTS)
    tiny_voc.Tags(data_dir=folder).download_and_prepare()
    return str(folder)


@pytest.fixture(scope="module")
def streamed(data_dir):
    return {"data_dir": data_dir, "cache_bytes": 0}


@pytest.fixture(scope="module", params=["in memory", "streamed"])
def voc(request, data_dir, streamed):
    """The sources to train and to test with of VOC 2007."""
    options = streamed if request.param == "streamed" else {"data_dir": data_dir}
    return open_source("tfds:voc/2007", **options)


def batches(source, size, image_size=16):
    """The numbers and labels of the images in each batch."""
    data = evaluation_batches(source, image_size, size, mean=(0, 0, 0), std=(1 / 255,) * 3)
    return [
        (numbers(np.round(images[:, 0, 0, 0], -1)), labels)
        for images, labels in data.as_numpy_iterator()
    ]


@pytest.mark.slow
def test_voc(voc):
    train, test = voc
    assert train.multilabel
    assert test.multilabel
    assert test.name.endswith(":test")
    assert train.class_names[:4] == ("aeroplane", "bicycle", "bird", "boat")
    for source, split in ((train, "train"), (test, "test")):
        found, labels = map(np.concatenate, zip(*batches(source, 4), strict=True))
        assert sorted(found) == list(range(source.num_examples))  # prepared data is shuffled
        assert labels.dtype == source.labels().dtype == np.int64
        np.testing.assert_array_equal(labels, LABELS[split][found])
        np.testing.assert_array_equal(source.labels(), labels)
    features, labels = extract_features(
        keras.layers.GlobalAveragePooling2D(), evaluation_batches(train, 16, 4)
    )
    assert features.shape == (6, 3)
    np.testing.assert_array_equal(labels, train.labels())


@pytest.mark.slow
def test_subsets_keep_the_rows(voc):
    train, _ = voc
    subset = train.subset([4, 0, 3])
    assert isinstance(subset, BytesSource)
    for source in (subset, subset.cached()):
        assert source.multilabel
        np.testing.assert_array_equal(source.labels(), train.labels()[[4, 0, 3]])
        ((found, labels),) = batches(source, 3)
        np.testing.assert_array_equal(labels, LABELS["train"][found])
    assert subset.subset([1, 2]).labels().shape == (2, 20)


@pytest.mark.slow
def test_splits(streamed):
    train, test = open_source("tfds:voc/2007:train+validation", **streamed)
    assert train.num_examples == 8
    expected = np.concatenate([LABELS["train"], LABELS["val"]])
    assert sorted(train.labels().tolist()) == sorted(expected.tolist())
    assert test.name.endswith(":test")
    # Of 2012 the test labels are secret, and nobody is to be tested on what was trained on.
    train, test = open_source("tfds:voc/2012:train+validation[:50%]", **streamed)
    assert (train.num_examples, train.multilabel, test) == (7, True, None)
    train, test = open_source("tfds:voc/2012", **streamed)
    assert test.name.endswith(":validation")
    hidden, test = open_source("tfds:voc/2012:test", **streamed)
    assert (hidden.multilabel, hidden.class_names) == (False, None)
    ((_, labels),) = batches(hidden, 3)
    np.testing.assert_array_equal(labels, [-1, -1, -1])
    assert open_source("tfds:voc/2007:all", **streamed)[1] is None


def test_without_difficult_objects_every_label_counts(streamed):
    train, test = open_source("tfds:tags", **streamed)
    assert train.multilabel
    assert test is None
    # That the first image has no label does not mean that labels are secret.
    expected = [[0, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert sorted(train.labels().tolist()) == expected


def test_an_unreadable_image_is_named_by_its_file(streamed):
    train, _ = open_source("tfds:voc/2007", **streamed)
    keys = train.in_order().map(lambda *record: train.parse(*record)[1])
    assert b"train_000003.jpg" in list(keys.as_numpy_iterator())


@pytest.mark.slow
def test_pretraining_ignores_the_labels(voc):
    train, _ = voc
    look = Look(draws=False)
    views = values(pretraining_views(train, look, look, 2, seed=1).take(3))
    assert sorted(numbers(np.round(views[:, 0], -1)).ravel()) == list(range(6))


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
