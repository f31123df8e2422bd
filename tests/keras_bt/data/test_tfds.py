import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import PER_CLASS, Look, numbers, values
from tiny_imagenet import SYNSETS

from keras_bt.data import evaluation_batches, pretraining_views
from keras_bt.data.decoding import DataError
from keras_bt.data.encoded import BytesSource
from keras_bt.data.specs import open_source
from keras_bt.data.tfds import RecordSource

A = Look(draws=False)


def epochs(views, count):
    """The numbers of the images in batches of views, by epoch."""
    return numbers(values(views)[:, 0]).reshape(count, -1)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"cache_bytes": 0}])
def test_imagenet_from_its_archives(imagenet_dir, options):
    train, test = open_source("tfds:imagenet2012", imagenet_dir, **options)
    assert isinstance(train, RecordSource if options else BytesSource)
    assert (train.num_examples, test.num_examples) == (24, 5)
    assert train.class_names[:3] == SYNSETS
    assert len(train.class_names) == 1000
    # The test set exists, but its labels are secret.
    assert test.name.endswith(":validation")
    np.testing.assert_array_equal(np.bincount(train.labels()), [8] * 3)
    (_, labels), *_ = evaluation_batches(test, 16, 10)
    np.testing.assert_array_equal(labels, test.labels())


@pytest.mark.slow
def test_workers_read_files_of_their_own(imagenet_dir):
    train, _ = open_source("tfds:imagenet2012", imagenet_dir, cache_bytes=0)
    # As if the records were in four files: tfds puts so few of them into one.
    takes = [5, 7, 6, 6]
    train.files = [
        dataclasses.replace(train.files[0], skip=skip, take=take)
        for skip, take in zip([0, 5, 12, 18], takes, strict=True)
    ]
    batches = evaluation_batches(train, 16, 24, mean=(0, 0, 0), std=(1 / 255,) * 3)
    in_order = numbers(np.round(next(iter(batches))[0][:, 0, 0, 0]))
    file_of = dict(zip(in_order, np.repeat(range(4), takes), strict=True))
    files = []
    for index in range(2):
        views = pretraining_views(train, A, A, 12, seed=1, shard_index=index, num_shards=2)
        found = epochs(views.take(16), 8)
        files.append([{file_of[number] for number in epoch} for epoch in found])
    for own, others in zip(*files, strict=True):
        assert own.isdisjoint(others)
        assert own | others == {0, 1, 2, 3}
    # Which worker reads which file changes from epoch to epoch.
    assert len(set(map(frozenset, files[0]))) > 1
    # A sample ends within a file.
    np.testing.assert_array_equal(train.sample(9, seed=0).labels(), train.labels()[:9])


@pytest.mark.slow
def test_parts_of_splits(imagenet_dir):
    train, test = open_source("tfds:imagenet2012:train[:25%]", imagenet_dir, 0)
    assert train.num_examples == 6
    assert test.num_examples == 5
    train, test = open_source("tfds:imagenet2012:5.1.0:validation", imagenet_dir, 0)
    assert train.num_examples == 5
    assert test is None  # not what was trained on
    hidden, _ = open_source("tfds:imagenet2012:test", imagenet_dir, 0)
    assert hidden.class_names is None


@pytest.mark.slow
def test_unreadable_records_are_named(make_source, monkeypatch):
    train, parse = make_source("records"), RecordSource.parse

    def with_a_broken_one(self, record, place):
        encoded, key, label = parse(self, record, place)
        return tf.where(key == "n01443537_2.JPEG", b"broken", encoded), key, label

    monkeypatch.setattr(RecordSource, "parse", with_a_broken_one)
    found = epochs(pretraining_views(train, A, A, 6, seed=1).take(4), 1)
    assert train.unreadable.names == ("n01443537_2.JPEG",)
    assert set(found.ravel()) == set(range(24)) - {PER_CLASS + 2}


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
def test_unknown_data_sets_and_splits_are_refused(imagenet_dir, spec, message):
    with pytest.raises(DataError, match=message) as error:
        open_source(spec, imagenet_dir)
    assert "\n" not in str(error.value)


def test_missing_archives_are_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar") as error:
        open_source("tfds:imagenet2012", str(tmp_path))
    assert "\n" not in str(error.value)
