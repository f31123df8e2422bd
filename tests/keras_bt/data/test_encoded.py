import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_bt.data.decoding import DataError
from keras_bt.data.encoded import BytesSource, FileSource
from keras_bt.data.sources import ArraySource, DecodedSource

RNG = np.random.RandomState(0)


def images_of(source):
    """All images of a source with their labels; None where one is unreadable."""
    decoded = source.in_order().map(source.decode)
    return [
        (image if readable else None, int(label))
        for image, readable, label in decoded.as_numpy_iterator()
    ]


@pytest.fixture
def files(tmp_path):
    """Seven images of different sizes, one of them broken; labels 0, 1, 0, 1, …"""
    shapes = [(5 + n, 8, 3) for n in range(7)]
    images = [RNG.randint(0, 256, shape, np.uint8) for shape in shapes]
    paths = [str(tmp_path / f"{n}.png") for n in range(7)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    images[4] = None
    Path(paths[4]).write_bytes(b"")

    def source(**options):
        return FileSource(paths, str(tmp_path), np.arange(7) % 2, ("even", "odd"), **options)

    return source, images


def assert_same_images(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_are_read_and_unreadable_ones_noted(files):
    source, images = files[0](cache_bytes=0), files[1]
    assert source.cached() is source
    assert source.image_shape is None
    assert len(source.unreadable) == 0
    read = images_of(source)
    assert_same_images([image for image, _ in read], images)
    assert [label for _, label in read] == [0, 1, 0, 1, 0, 1, 0]
    assert source.unreadable.names == ("4.png",)


def test_the_cache_holds_the_same_images_and_shares_the_record(files):
    source, images = files[0](), files[1]
    cached = source.cached()
    assert isinstance(cached, DecodedSource)
    assert source.cached() is cached
    assert (cached.num_examples, cached.class_names) == (7, ("even", "odd"))
    read = images_of(cached)
    assert_same_images([image for image, _ in read], images)
    assert [label for _, label in read] == [0, 1, 0, 1, 0, 1, 0]
    assert source.unreadable.names == cached.unreadable.names == ("4.png",)


def test_cached_images_of_one_size_become_an_array(tmp_path):
    images = RNG.randint(0, 256, (3, 4, 5, 3), np.uint8)
    for n, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    source = FileSource(sorted(map(str, tmp_path.iterdir())), str(tmp_path))
    cached = source.cached()
    assert isinstance(cached, ArraySource)
    assert cached.class_names is None
    np.testing.assert_array_equal(cached.images, images)


def test_nothing_larger_than_the_limit_is_cached(files):
    total = sum(image.nbytes for image in files[1] if image is not None)
    # Small files are larger than their pixels: the size of a file alone must not be what stops
    # it here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSource, "encoded_bytes", lambda self, enough: 0)
        source = files[0](cache_bytes=total)
        assert source.cached() is not source
        source = files[0](cache_bytes=total - 1)
        assert source.cached() is source
    source = files[0](cache_bytes=total)
    assert source.encoded_bytes(10**9) > total // 3
    assert source.cached() is source


def test_more_than_one_per_cent_unreadable_stop_the_cache_and_all_are_named(files, tmp_path):
    source = files[0]()
    (tmp_path / "2.png").unlink()
    (tmp_path / "6.png").write_text("no image")
    with pytest.raises(DataError, match=r"3 unreadable of 7 in files: 2\.png, 4\.png, 6\.png\.$"):
        source.cached()


@pytest.mark.parametrize("kind", ["files", "bytes", "decoded"])
def test_a_subset_has_its_own_images_and_labels_but_the_same_record(files, kind):
    make, images = files
    source = make(cache_bytes=0)
    if kind == "bytes":
        encoded = [Path(path).read_bytes() for path in source.paths]
        source = BytesSource(encoded, list("abcdefg"), source.labels(), class_names=("e", "o"))
    elif kind == "decoded":
        source = make().cached()
    indices = np.array([5, 1, 4, 0])
    subset = source.subset(indices)
    assert subset.num_examples == 4
    np.testing.assert_array_equal(subset.labels(), [1, 1, 0, 0])
    assert subset.class_names == source.class_names
    assert_same_images([image for image, _ in images_of(subset)], [images[i] for i in indices])
    assert subset.unreadable is source.unreadable
    assert len(source.unreadable) == 1


def test_an_image_is_looked_up_by_names_that_are_not_utf8(tmp_path):
    paths = [str(tmp_path / os.fsdecode(name)) for name in (b"caf\xe9.png", b"th\xe9.png")]
    Image.new("RGB", (2, 2)).save(paths[0], "PNG")
    Path(paths[1]).write_bytes(b"")
    source = FileSource(paths, str(tmp_path), cache_bytes=0)
    read = images_of(source)
    assert read[0][0].shape == (2, 2, 3)
    assert read[1][0] is None
    assert source.unreadable.names == ("th\\xe9.png",)
