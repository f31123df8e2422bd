import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_bt.decoding import DataError
from keras_bt.opening import open_source


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
