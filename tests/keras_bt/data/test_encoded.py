import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_bt.data.arrays import ArraySource, DecodedSource
from keras_bt.data.decoding import DataError
from keras_bt.data.encoded import FileSource


def test_the_cache_is_made_once_and_only_if_it_fits(make_source):
    assert (source := make_source("files")).cached() is source  # cache_bytes=0
    source = make_source("cached files")
    cached = source.cached()
    assert isinstance(cached, DecodedSource)
    assert source.cached() is cached
    assert (cached.num_examples, cached.class_names) == (24, source.class_names)
    assert cached.unreadable is source.unreadable
    total = sum((3 + n) * 7 * 3 for n in range(24))
    # Small files are larger than their pixels: the size of a file alone must not be what stops
    # it here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSource, "encoded_bytes", lambda self, enough: 0)
        for cache_bytes in (total, total - 1):
            source = make_source("cached files")
            source.cache_bytes = cache_bytes
            assert (source.cached() is source) == (cache_bytes < total)
    source = make_source("cached files")
    source.cache_bytes = 3 * source.encoded_bytes(10**9) - 1
    assert source.cached() is source


def test_cached_images_of_one_size_become_an_array(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (3, 4, 5, 3), np.uint8)
    for n, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    source = FileSource(sorted(map(str, tmp_path.iterdir())), str(tmp_path))
    cached = source.cached()
    assert isinstance(cached, ArraySource)
    assert cached.class_names is None
    np.testing.assert_array_equal(cached.images, images)


def test_more_than_one_per_cent_unreadable_stop_the_cache_and_all_are_named(make_source, tmp_path):
    source = make_source("cached files", broken=[4, 6])
    (tmp_path / "02.png").unlink()
    with pytest.raises(DataError, match=r"3 unreadable of 24 .*: 02.png \(.+\), 04.png, 06.png\.$"):
        source.cached()


def test_an_image_is_looked_up_by_names_that_are_not_utf8(tmp_path):
    paths = [str(tmp_path / os.fsdecode(name)) for name in (b"caf\xe9.png", b"th\xe9.png")]
    Image.new("RGB", (2, 2)).save(paths[0], "PNG")
    Path(paths[1]).write_bytes(b"")
    source = FileSource(paths, str(tmp_path), cache_bytes=0)
    read = [readable for _, readable, _ in source.in_order().map(source.decode)]
    assert read == [True, False]
    assert source.unreadable.names == ("th\\xe9.png",)
