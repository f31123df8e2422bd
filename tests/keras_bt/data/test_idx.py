import gzip
import struct

import numpy as np
import pytest

from keras_bt.data.decoding import DataError
from keras_bt.data.idx import open_idx, read_idx

RNG = np.random.RandomState(0)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


IMAGES = RNG.randint(0, 256, (6, 4, 5), np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0], np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    (tmp_path / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES[:2])))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:2]))
    return tmp_path


def test_plain_and_compressed_files(folder):
    train, test = open_idx(str(folder), "idx:d")
    np.testing.assert_array_equal(train.images, IMAGES[..., None])
    np.testing.assert_array_equal(train.labels(), LABELS)
    np.testing.assert_array_equal(test.images, IMAGES[:2, ..., None])
    np.testing.assert_array_equal(test.labels(), LABELS[:2])
    assert train.image_shape == (4, 5, 3)
    assert train.class_names == test.class_names == ("0", "1", "2")


def test_labels_and_test_set_may_be_missing(folder):
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    (folder / "t10k-images.idx3-ubyte.gz").unlink()
    train, test = open_idx(str(folder), "idx:d")
    assert train.class_names is None
    assert test is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing and has 0 bytes"),
        (idx(LABELS), "begins with 00000801"),
        (struct.pack(">HBB3I", 0, 0x0D, 3, 1, 1, 1) + b"1234", "begins with 00000d03"),
        (idx(IMAGES)[:-1], r"of shape \(6, 4, 5\) must have 136 bytes.*with 135"),
        (idx(IMAGES) + b"x", "must have 136 bytes.*with 137"),
        (idx(IMAGES)[:10], "has 10 bytes"),
        (idx(IMAGES[:0]), "at least one image"),
        (idx(IMAGES[:5]), "Received: 6 labels for 5 images in idx:d train"),
    ],
)
def test_damaged_files_are_refused(folder, content, message):
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        open_idx(str(folder), "idx:d")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [lambda data: b"no gzip", lambda data: data[:-12]])
def test_damaged_compression_is_refused(tmp_path, damage):
    path = tmp_path / "labels.gz"
    path.write_bytes(damage(gzip.compress(idx(LABELS))))
    with pytest.raises(DataError, match=r"must be readable. Received: .*labels\.gz"):
        read_idx(path, dimensions=1)


def test_a_missing_folder_or_file_is_named(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match=f"holds train-images-idx3-ubyte.*Received: {folder}"):
            open_idx(str(folder), "idx:d")
