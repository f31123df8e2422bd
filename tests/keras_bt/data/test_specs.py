import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_bt.data.decoding import DataError
from keras_bt.data.specs import open_source


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
        ("digits:8", "Received: 'digits:8'."),
        ("", "Received: ''."),
    ],
)
def test_unknown_sources_are_answered_with_the_known_ones(spec, hint):
    with pytest.raises(DataError) as error:
        open_source(spec)
    assert "digits, idx:DIR, folder:DIR or tfds:NAME[:SPLIT]" in str(error.value)
    assert str(error.value).endswith(hint)


def test_paths_may_contain_colons(tmp_path):
    (tmp_path / "a:b").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "a:b" / "1.png")
    train, test = open_source(f"folder:{tmp_path}/a:b")
    assert train.num_examples == 1
    assert test is None


def test_a_part_of_the_training_images_is_held_out():
    whole, _ = open_source("digits")
    train, held_out = open_source("heldout:digits")
    assert (train.num_examples, held_out.num_examples) == (1297 - 216, 216)
    assert held_out.role == "held-out training images"
    together = np.concatenate([train.images, held_out.images]).reshape(1297, -1)
    np.testing.assert_array_equal(
        np.unique(together, axis=0, return_counts=True)[1],
        np.unique(whole.images.reshape(1297, -1), axis=0, return_counts=True)[1],
    )
    assert len(np.unique(train.labels()[:50])) > 5  # drawn from everywhere, with their labels
    label_of = {i.tobytes(): y for i, y in zip(whole.images, whole.labels(), strict=True)}
    expected = [label_of[i.tobytes()] for i in held_out.images]
    np.testing.assert_array_equal(held_out.labels(), expected)


def test_a_smaller_part_lies_within_a_larger_and_is_measured_on_the_same_images():
    train, held_out = open_source("heldout:digits")
    part, also_held_out = open_source("heldout:300:digits")
    assert part.num_examples == 300
    assert {i.tobytes() for i in part.images} <= {i.tobytes() for i in train.images}
    np.testing.assert_array_equal(held_out.images, also_held_out.images)


@pytest.mark.parametrize("spec", ["heldout:1082:digits", "heldout:0:digits"])
def test_no_more_can_be_trained_on_than_is_left(spec):
    with pytest.raises(DataError, match=r"leaves 1,081.*Received: 'heldout"):
        open_source(spec)


def test_what_is_held_out_of_must_be_a_source_itself():
    with pytest.raises(DataError, match="Received: 'nothing'"):
        open_source("heldout:nothing")
