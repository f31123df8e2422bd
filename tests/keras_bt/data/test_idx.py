import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from keras_bt.data import promised
from keras_bt.data.decoding import DataError
from keras_bt.data.idx import open_idx

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


def header(*shape, kind=0x08):
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape)


ZEROS = gzip.compress(bytes(2**26), 1) * 8  # unpacked half a gigabyte
TRAIN, LABEL = "train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"
LYING = [
    (TRAIN, b"", "begins with nothing and ends before the sizes do"),
    (TRAIN, idx(LABELS), "begins with 00000801"),
    (TRAIN, header(1, 1, 1, kind=0x0D) + b"1234", "begins with 00000d03"),
    (TRAIN, idx(IMAGES)[:10], "begins with 00000803 and ends before"),
    (TRAIN, idx(IMAGES)[:-1], r"of shape \(6, 4, 5\) must have 136 bytes.*with 135"),
    (TRAIN, idx(IMAGES) + b"x", "must have 136 bytes.*with more"),
    (TRAIN, idx(IMAGES[:0]), "at least one image"),
    (TRAIN, header(6, 0, 2**32 - 1), "at least one image"),
    (TRAIN, header(*[2**32 - 1] * 3), r"\(4294967295, .*must have 79228162458924105385300197391"),
    (TRAIN, header(2**31, 1, 2) + bytes(100), "must have 4294967312 bytes.*with 116"),
    (TRAIN, gzip.compress(idx(IMAGES)[:-1]), "must have 136 bytes.*with 135"),
    (TRAIN, gzip.compress(idx(IMAGES)) + ZEROS, "must have 136 bytes.*with more"),
    (TRAIN, gzip.compress(header(2**31, 1, 2)) + ZEROS, "with 536870928"),
    (TRAIN, gzip.compress(idx(IMAGES))[:-12], r"must be readable.*ubyte \(Compressed file ended"),
    (TRAIN, gzip.compress(idx(IMAGES))[:-4], r"must be readable.*ubyte \(Compressed file ended"),
    (TRAIN, gzip.compress(idx(IMAGES)) + b"xyz", r"must be readable.*ubyte \(Not a gzipped file"),
    (TRAIN, gzip.compress(idx(IMAGES)).replace(b"\x08", b"\x09", 1), "must be readable"),
    (TRAIN, idx(IMAGES[:5]), "Received: 6 labels for 5 images in idx:d train"),
    (LABEL, gzip.compress(idx(IMAGES)), "labels.*begins with 00000803"),
    (LABEL, gzip.compress(idx(LABELS[:5])), "5 labels for 6 images"),
    (LABEL, b"not compressed", "magic number 00000801.*begins with 6e6f7420"),
    (TRAIN, None, r"must be readable.*idx3-ubyte \(not a file"),
    (LABEL, None, r"must be readable.*idx1-ubyte\.gz \(not a file"),
]


@pytest.mark.parametrize(("name", "content", "message"), LYING, ids=range(len(LYING)))
def test_lying_files_are_refused_before_they_fill_the_memory(folder, name, content, message):
    (folder / name).unlink()
    if content is None:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as error:
            open_idx(str(folder), "idx:d")
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


def test_a_file_is_what_its_first_bytes_say(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(gzip.compress(idx(IMAGES)))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx(LABELS))
    train, _ = open_idx(str(folder), "idx:d")
    np.testing.assert_array_equal(train.images, IMAGES[..., None])
    np.testing.assert_array_equal(train.labels(), LABELS)


def test_a_folder_gives_way_to_a_file(folder):
    (folder / "train-images-idx3-ubyte").rename(folder / "train-images.idx3-ubyte")
    (folder / "train-images-idx3-ubyte").mkdir()  # as archives of MNIST on the web unpack
    assert open_idx(str(folder), "idx:d")[0].num_examples == 6


def test_a_broken_link_is_not_passed_over(folder):
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    (folder / "train-labels-idx1-ubyte.gz").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"must be readable.*No such file"):
        open_idx(str(folder), "idx:d")


def test_large_files_are_counted_first(folder, monkeypatch):
    monkeypatch.setattr(promised, "_ON_TRUST", 10)
    monkeypatch.setattr(promised, "_CHUNK", 7)
    train, _ = open_idx(str(folder), "idx:d")
    np.testing.assert_array_equal(train.images, IMAGES[..., None])


def test_a_missing_folder_or_file_is_named(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match=f"holds train-images-idx3-ubyte.*Received: {folder}"):
            open_idx(str(folder), "idx:d")
