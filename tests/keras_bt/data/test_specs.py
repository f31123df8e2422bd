import numpy as np
import pytest
from places import ROOT
from sklearn.datasets import load_digits

from keras_bt.data.decoding import DataError
from keras_bt.data.kinds import KINDS, Kind, usages
from keras_bt.data.specs import open_source
from trainers.runs.sources import SOURCES


def test_digits_are_split_once_and_for_all():
    train, test = open_source("digits")
    assert train.image_shape == test.image_shape == (8, 8, 3)
    assert train.class_names == test.class_names == tuple("0123456789")
    digits = load_digits()
    expected = np.round(digits.images / 16 * 255)[..., None]
    # Another split would make published figures incomparable.
    np.testing.assert_array_equal(train.images, expected[:1297])
    np.testing.assert_array_equal(train.labels(), digits.target[:1297])
    np.testing.assert_array_equal(test.images, expected[1297:])
    np.testing.assert_array_equal(test.labels(), digits.target[1297:])


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("digit", "did you mean digits?"),
        ("fodler:/data", "did you mean folder?"),
        ("/data/images", "did you mean folder:/data/images?"),
        ("tensorflow", "Received: 'tensorflow'."),
        ("folder:", "Received: 'folder:'."),
        ("folder", "Received: 'folder'."),
        ("digits:8", "Received: 'digits:8'."),
        ("digits:", "Received: 'digits:'."),
        ("", "Received: ''."),
        ("heldout:nothing", "Received: 'nothing'."),
    ],
)
def test_unknown_sources_are_answered_with_the_known_ones(spec, hint):
    with pytest.raises(DataError) as error:
        open_source(spec)
    assert usages() in str(error.value)
    assert str(error.value).endswith(hint)


def test_one_entry_adds_a_kind(monkeypatch):
    asked = []
    kind = Kind("zip:FILE", "files in an archive", lambda w: asked.append(w) or (1, None))
    monkeypatch.setitem(KINDS, "zip", kind)
    assert open_source("zip:a:b.zip", "/tfds", 7) == (1, None)
    assert asked[0][:4] == ("a:b.zip", "zip:a:b.zip", "/tfds", 7)  # a path may contain colons
    with pytest.raises(DataError, match=r"zip:FILE.*did you mean zip"):
        open_source("zpi:a.zip")
    assert "zip:FILE (files in an archive)" in usages(with_help=True)


def test_every_kind_is_in_the_help_and_the_docs():
    table = (ROOT / "docs" / "data.md").read_text()
    for kind in KINDS.values():
        assert f"{kind.usage} ({kind.help})" in SOURCES
        assert f"| `{kind.usage}` |" in table


def images_of(source):
    return [image.tobytes() for image in source.images]


def test_a_part_of_the_training_images_is_held_out():
    whole, _ = open_source("digits")
    train, held_out = open_source("heldout:digits")
    assert (train.num_examples, held_out.num_examples) == (1297 - 216, 216)
    assert held_out.role == "held-out training images"
    assert sorted(images_of(train) + images_of(held_out)) == sorted(images_of(whole))
    assert len(np.unique(train.labels()[:50])) > 5  # drawn from everywhere, with their labels
    label_of = dict(zip(images_of(whole), whole.labels(), strict=True))
    np.testing.assert_array_equal(held_out.labels(), [label_of[i] for i in images_of(held_out)])
    # A smaller part lies within the larger and is measured on the same images.
    part, also_held_out = open_source("heldout:300:digits")
    assert part.num_examples == 300
    assert set(images_of(part)) <= set(images_of(train))
    np.testing.assert_array_equal(held_out.images, also_held_out.images)


@pytest.mark.parametrize("spec", ["heldout:1082:digits", "heldout:0:digits"])
def test_no_more_can_be_trained_on_than_is_left(spec):
    with pytest.raises(DataError, match=r"leaves 1,081.*Received: 'heldout"):
        open_source(spec)
