import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_bt.decoding import DataError
from keras_bt.opening import open_source


def test_digits_are_split_once_and_for_all():
    train, test = open_source("digits")
    assert train.image_shape == test.image_shape == (8, 8, 3)
    assert train.class_names == tuple("0123456789")
    assert (train.num_examples, test.num_examples) == (1297, 500)
    np.testing.assert_array_equal(np.bincount(test.labels()), [50] * 10)
    together = np.concatenate([train.images, test.images])[..., 0]
    digits = load_digits()
    expected = np.round(digits.images / 16 * 255)
    assert sorted(map(tuple, together.reshape(-1, 64))) == sorted(
        map(tuple, expected.reshape(-1, 64).astype(np.uint8))
    )
    # The labels belong to the images.
    label_of = {tuple(i.ravel()): t for i, t in zip(expected, digits.target, strict=True)}
    for source in (train, test):
        found = [label_of[tuple(image.ravel().astype(float))] for image in source.images]
        np.testing.assert_array_equal(found, source.labels())
    # Another split would make published figures incomparable.
    assert test.images.astype(int).sum() == 2_474_030


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
