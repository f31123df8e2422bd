import io
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_bt.data import promised
from keras_bt.data.decoding import DataError
from keras_bt.data.specs import open_source

RNG = np.random.RandomState(0)
RGB = RNG.randint(0, 256, (12, 5, 6, 3), np.uint8)
GRAY, THREE = RGB[..., 0], np.arange(12) % 3
NAMES = np.array(["owl", "cat", "dog"])[THREE]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "images.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("arrays", "classes", "train_labels", "test_labels"),
    [
        ({"images": RGB}, None, None, None),
        ({"images": GRAY, "labels": THREE}, ("0", "1", "2"), THREE, None),
        ({"images": GRAY[..., None], "labels": THREE - 1.0 > 0}, ("0", "1"), THREE == 2, None),
        ({"images": RGB, "labels": NAMES}, ("cat", "dog", "owl"), (THREE + 2) % 3, None),
        (
            {"images": np.asfortranarray(RGB), "labels": (5 * THREE).astype(">u2")}
            | {"test_images": GRAY[:2], "test_labels": np.int8([10, 5])},
            ("0", "5", "10"),
            THREE,
            [2, 1],
        ),
        (
            {"images": RGB, "labels": NAMES}
            | {"test_images": RGB[:1], "test_labels": np.array([b"dog"])},
            ("cat", "dog", "owl"),
            (THREE + 2) % 3,
            [1],
        ),
    ],
)
def test_what_is_read(file, save, arrays, classes, train_labels, test_labels):
    save(file, **arrays)
    train, test = open_source(f"npz:{file}")
    expected = arrays["images"]
    np.testing.assert_array_equal(train.images, expected.reshape(*expected.shape[:3], -1))
    assert train.class_names == classes
    assert not train.remarks
    if classes:
        np.testing.assert_array_equal(train.labels(), train_labels)
    assert (test is None) == ("test_images" not in arrays)
    if test is not None:
        assert test.class_names == classes
        np.testing.assert_array_equal(test.labels(), test_labels)


def test_a_part_can_be_held_out_and_other_arrays_are_named(file):
    np.savez(file, images=RGB, labels=THREE, note=np.array([None]), label=THREE)
    train, held_out = open_source(f"heldout:npz:{file}")
    assert (train.num_examples, held_out.num_examples) == (10, 2)
    train, _ = open_source(f"npz:{file}")
    assert train.remarks == ("Arrays of the file that are not used: note, label.",)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": RGB, "y_train": THREE}, "without images, which has x_train, y_train"),
        ({}, "without images, which has no arrays"),
        ({"images": RGB, "test_labels": THREE}, "without labels, which has images, test_labels"),
        ({"images": RGB, "labels": THREE, "test_labels": THREE}, "without test_images"),
        ({"images": RGB / 255}, r"by 255.*images of .*npz, float64 of shape \(12, 5, 6, 3\)"),
        ({"images": RGB.astype(np.uint16)}, "those of 16 bits by images >> 8, .*uint16"),
        ({"images": RGB > 9}, "must be uint8.*bool"),
        ({"images": RGB[0]}, r"images\[None\].*\(5, 6, 3\)"),
        ({"images": RGB.transpose(0, 3, 1, 2)}, r"transpose\(0, 2, 3, 1\)"),
        ({"images": np.zeros(5, np.uint8)}, r"must have the shape \(n, h, w\).*\(5,\)"),
        ({"images": RGB[:0]}, "at least one image"),
        ({"images": np.array([None])}, "must be uint8.*object"),
        ({"images": RGB, "labels": THREE * 1.0}, "integers or text.*float64"),
        ({"images": RGB, "labels": NAMES.astype(object)}, "integers or text.*object"),
        ({"images": RGB, "labels": np.eye(12, dtype=int)}, r"one per image.*\(12, 12\)"),
        ({"images": RGB, "labels": THREE[:5]}, "5 labels for 12 images"),
        ({"images": RGB, "labels": np.full(12, 0x7FFFFFFF).view("<U1")[::2]}, "must be text"),
        (
            {"images": RGB, "labels": THREE, "test_images": RGB[:2], "test_labels": [0, 7]},
            "classes of the training set.*test_labels of .* with 7",
        ),
        (
            {"images": RGB, "labels": NAMES, "test_images": RGB[:2], "test_labels": [0, 1]},
            "test_labels of .* with 0",
        ),
        ({"images": RGB, "labels": THREE, "test_images": RGB[:1] / 2}, "test_images .*float64"),
    ],
)
def test_other_arrays_are_refused(file, arrays, message):
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=message) as error:
        open_source(f"npz:{file}")
    assert "\n" not in str(error.value)


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def header(shape, descr="|u1", version=b"\1\0", more=""):
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}) + more + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode()


def zipped(member, name="images.npy", how=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how, compresslevel=1) as archive:
        archive.writestr(name, member)
    return content.getvalue()


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


def a_quarter_of_a_gigabyte_of_zeros(begin):
    """A zip file of a megabyte, made when a test asks for it: that takes half a second."""
    return lambda: zipped(begin + bytes(2**28))


def claiming(content, size):
    """The same zip file, whose directory states another size of its one member."""
    at = content.rindex(b"PK\1\2") + 24
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


SIX = header((1, 1, 6))
LYING = {
    "empty": (b"", r"needs a file as np\.savez.*not a zip"),
    "text": (b"images", "not a zip"),
    "one array": (npy(RGB), "not a zip"),
    "truncated": (zipped(npy(RGB))[:-30], "not a zip"),
    "damaged": (
        zipped(npy(RGB), how=zipfile.ZIP_STORED).replace(npy(RGB)[-9:-5], b"----"),
        "that NumPy wrote|Bad CRC",
    ),
    "a folder": (None, "not a file"),
    "too short": (zipped(SIX + bytes(5)), r"shape \(1, 1, 6\) and type uint8 must have .* bytes"),
    "too long": (zipped(SIX + bytes(7)), "must have .* bytes"),
    "far too long": (a_quarter_of_a_gigabyte_of_zeros(SIX), "must have .* bytes"),
    "far too short": (
        a_quarter_of_a_gigabyte_of_zeros(header((2**28, 1, 6))),
        "must have .* bytes",
    ),
    "beyond all": (zipped(header((2**62, 2**62, 2**62)) + bytes(5)), "must have .* bytes"),
    "negative": (zipped(header((2, -1, 6)) + bytes(6)), "at least one image"),
    "negative twice": (zipped(header((-2, -1, 5)) + bytes(10)), "at least one image"),
    "lying twice": (claiming(zipped(SIX + bytes(5)), len(SIX) + 6), "must have .* bytes"),
    "no header": (zipped(b"\x93NUMPY"), "that NumPy wrote"),
    "no type": (zipped(header((2, 1, 2), "what")), "that NumPy wrote"),
    "nested": (zipped(header((2, 1, 2), more="(" * 9000)), "that NumPy wrote"),
    "a long header": (
        a_quarter_of_a_gigabyte_of_zeros(b"\x93NUMPY\2\0" + struct.pack("<I", 2**28)),
        "that NumPy wrote",
    ),
    "a pickle": (zipped(npy(np.array([Harmful()]))), "must be uint8.*object"),
    "only a pickle": (zipped(pickle.dumps(Harmful())), "that NumPy wrote"),
    "encrypted": (
        zipped(npy(RGB)).replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"),
        "encrypted",
    ),
    "a strange name": (zipped(npy(RGB), "a\nb"), r"which has 'a\\nb'"),
}


@pytest.mark.parametrize("name", LYING)
def test_lying_files_are_refused_before_they_fill_the_memory(file, name):
    content, message = LYING[name]
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content() if callable(content) else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as error:
            open_source(f"npz:{file}")
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


def test_what_is_large_is_counted_first(file, monkeypatch):
    monkeypatch.setattr(promised, "_ON_TRUST", 10)
    np.savez_compressed(file, images=RGB)
    np.testing.assert_array_equal(open_source(f"npz:{file}")[0].images, RGB)
    file.write_bytes(claiming(zipped(header((2, 1, 6)) + bytes(11)), len(SIX) + 12))
    with pytest.raises(DataError, match=r"must have .* bytes"):
        open_source(f"npz:{file}")


def test_a_missing_file_is_named(file):
    with pytest.raises(DataError, match=r"needs a file as .*No such file"):
        open_source(f"npz:{file}")
