"""Classes held out whole: what is trained on, what chooses the threshold, what is judged on."""

import numpy as np
import pytest

from keras_bt.data.arrays import ArraySource
from keras_bt.data.decoding import DataError
from keras_bt.data.verification import paired_parts

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def source(per_class=20, classes=CLASSES, start=0):
    """Images that show their number, of classes one after another."""
    n = per_class * len(classes)
    images = np.broadcast_to(
        (np.arange(n) + start).astype(np.uint8)[:, None, None, None], (n, 2, 2, 1)
    )
    return ArraySource(images, np.repeat(np.arange(len(classes)), per_class), classes)


def numbers(part):
    return set(part.source.images[:, 0, 0, 0].tolist())


def test_no_image_and_no_class_is_in_two_parts():
    train, test = source(), source(start=128)
    for of_test in (None, test):
        parts = paired_parts(train, of_test, seed=3)
        every = [numbers(part) for part in (parts.train, parts.validation, parts.test)]
        assert sum(map(len, every)) == len(set.union(*every)) == 120
        assert [len(part) for part in every] == [64, 16, 40]
        unseen = set(parts.test.source.labels())
        assert len(unseen) == 2
        assert not unseen & set(parts.train.source.labels())
        assert not unseen & set(parts.validation.source.labels())
        assert min(every[2]) >= (128 if of_test else 0)
        for part in (parts.validation, parts.test):
            labels = part.source.labels()
            assert (
                part.pairs.same == (labels[part.pairs.first] == labels[part.pairs.second])
            ).all()
        assert parts.train.pairs is None
        assert ("not from the pretraining" in parts.where) == (of_test is None)


def test_names_numbers_labels_and_the_seed_decide():
    train = source()
    parts = paired_parts(train, unseen=" fox,ant", labels="8", pairs=11)
    assert set(parts.test.source.labels()) == {0, 5}
    assert "40 images of 2 classes that were not trained on: ant, fox" in parts.where
    assert np.bincount(parts.train.source.labels()).tolist() == [0, 2, 2, 2, 2]
    assert len(parts.validation.pairs) == len(parts.test.pairs) == 11
    assert len(set(paired_parts(train, unseen="4").test.source.labels())) == 4
    seeds = {tuple(np.unique(paired_parts(train, seed=s).test.source.labels())) for s in range(8)}
    assert len(seeds) > 3
    again = [paired_parts(train, seed=s) for s in (1, 1, 2)]
    for name in ("train", "validation", "test"):
        one, same, other = (getattr(parts, name).identity() for parts in again)
        assert one == same != other


def test_there_are_no_more_pairs_than_all():
    parts = paired_parts(source(), unseen="2")
    pairs = parts.test.pairs
    assert len(pairs) == 2 * (2 * 190)  # 190 of each class; 400 of different ones
    assert len(np.unique(np.sort([pairs.first, pairs.second], axis=0), axis=1).T) == len(pairs)


REFUSED = {
    "three classes": (source(classes=CLASSES[:3]), {}, "Four classes .*: 3 in arrays"),
    "one class": (source(), {"unseen": "1"}, "at least two .*unseen=1"),
    "too many classes": (source(), {"unseen": "5"}, "leave two of the 6 .*unseen=5"),
    "one name": (source(), {"unseen": "fox"}, "at least two .*unseen=fox"),
    "another name": (source(), {"unseen": "fox,catt"}, "names of classes: cat. Received: catt,"),
    "an empty name": (source(), {"unseen": "fox,"}, "an empty name"),
    "no labels": (ArraySource(np.zeros((9, 2, 2, 1), np.uint8)), {}, "no labels"),
    "several labels": (
        ArraySource(np.zeros((9, 2, 2, 1), np.uint8), np.ones((9, 6), int), CLASSES),
        {},
        "one label each.*have several",
    ),
    "one label of each class": (source(), {"labels": "4"}, "to train on: Pairs need"),
    "labels": (source(), {"labels": "65"}, "of 64 at most"),
    "few images": (source(per_class=2), {}, "threshold by: Pairs need"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_divided(case):
    train, given, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        paired_parts(train, **given)


def test_a_test_set_without_the_classes():
    with pytest.raises(DataError, match="to judge on: Pairs need"):
        paired_parts(source(), source().subset(np.arange(20)), unseen="ant,bee")
