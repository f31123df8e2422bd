"""Features on disk: what is stored, when it is used again, and when it must not be."""

import errno
import io
import os
import pathlib
import shutil
import zlib
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from processes import abandoned
from tiny_imagenet import write_archives

from keras_bt import data
from keras_bt.data.encoded import BytesSource
from keras_bt.data.fingerprint import fingerprint
from keras_bt.evaluation import feature_cache, unfinished
from keras_bt.evaluation.feature_cache import cached_features, cached_named_features
from keras_bt.files import partial_of


def backbone():
    """All named: Keras gives a layer without a name another one every time."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="images"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(
                5, kernel_initializer=keras.initializers.Orthogonal(seed=0), name="d"
            ),
        ],
        name="backbone",
    )


@pytest.fixture(scope="module")
def model():
    return backbone()


def source(n=23, seed=0, labels=True, side=8):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, side, side, 3), np.uint8)
    if not labels:
        return data.ArraySource(images)
    return data.ArraySource(images, random.integers(0, 3, n), "abc")


@pytest.fixture
def extractions(monkeypatch):
    """The list of the sources' sizes, one entry for each extraction."""
    calls = []
    original = feature_cache.evaluation_batches

    def counted(source, *arguments, **settings):
        calls.append(source.num_examples)
        return original(source, *arguments, **settings)

    monkeypatch.setattr(feature_cache, "evaluation_batches", counted)
    return calls


def only_file(folder):
    (path,) = folder.iterdir()
    assert path.suffix == ".npy"
    return path


def test_features_are_the_backbones_and_memory_mapped(tmp_path, model, extractions):
    images = source()
    features, labels = cached_features(
        tmp_path / "new" / "cache", model, images, 8, batch_size=5, progress=False
    )
    expected = model(data.normalize(images.images)).numpy()
    assert isinstance(features, np.memmap)
    assert not features.flags.writeable
    assert features.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(labels, images.labels())
    again, labels_again = cached_features(
        tmp_path / "new" / "cache", model, images, 8, batch_size=7, progress=False
    )
    np.testing.assert_array_equal(again, features)
    np.testing.assert_array_equal(labels_again, labels)
    assert extractions == [23]
    with open(only_file(tmp_path / "new" / "cache"), "rb") as file:  # NumPy's, with two arrays
        np.testing.assert_array_equal(np.load(file), features)
        np.testing.assert_array_equal(np.load(file), labels)
        assert np.char.decode(np.load(file), "utf-8").tolist() == [str(n) for n in range(23)]


def names_in(folder):
    """The names in the only file of a cache, by NumPy alone."""
    with open(only_file(folder), "rb") as file:
        features, _, names = (np.load(file) for _ in range(3))
    assert len(names) == len(features)
    return np.char.decode(names, "utf-8").tolist()


def table(folder):
    (folder / "table.csv").write_text(
        "path\nimages/b/001.png\nimages/a/été.png\nimages/a/000.png\n"
    )
    return data.open_source(f"csv:{folder / 'table.csv'}")[0]


NAMED = {
    "parts of an array": (lambda folder: source().subset([7, 3, 5]).subset([2, 0]), ["5", "7"]),
    "bytes": (
        lambda folder: BytesSource([jpeg(1), b"", jpeg(2)], ["x", "y", b"caf\xe9"]),
        ["x", r"caf\xe9"],
    ),
    "folder": (
        lambda folder: data.open_source(f"folder:{folder / 'images'}", cache_bytes=0)[0],
        ["a/000.png", "a/002.png", "a/été.png", "b/001.png"],
    ),
    "part of a folder in memory": (
        lambda folder: data.open_source(f"folder:{folder / 'images'}")[0].subset([4, 1]),
        ["b/001.png", "a/002.png"],
    ),
    "table": (table, ["images/b/001.png", "images/a/été.png", "images/a/000.png"]),
}


@pytest.mark.parametrize("kind", NAMED)
def test_names_are_those_of_the_rows(tmp_path, model, kind):
    write_photographs(tmp_path / "images", 3)
    shutil.copy(tmp_path / "images" / "a" / "000.png", tmp_path / "images" / "a" / "été.png")
    (tmp_path / "images" / "a" / "003.png").write_bytes(b"no image")
    opened, names = NAMED[kind]
    cached_features(tmp_path / "cache", model, opened(tmp_path), 8, None, 2, progress=False)
    assert names_in(tmp_path / "cache") == names


def test_a_file_of_an_earlier_version_has_no_names_and_is_used(tmp_path, model, extractions):
    features, labels = map(np.array, cached_features(tmp_path, model, source(), 8, progress=False))
    old = io.BytesIO()
    np.save(old, features)
    np.save(old, labels)
    checksum = zlib.crc32(old.getvalue()[feature_cache._HEADER_BYTES :][: features.nbytes])
    checksum = zlib.crc32(old.getvalue()[feature_cache._HEADER_BYTES + features.nbytes :], checksum)
    checksum = zlib.crc32(old.getvalue()[: feature_cache._HEADER_BYTES], checksum)
    only_file(tmp_path).write_bytes(old.getvalue() + checksum.to_bytes(4, "little"))
    again, labels_again = cached_features(tmp_path, model, source(), 8, progress=False)
    np.testing.assert_array_equal(again, features)
    np.testing.assert_array_equal(labels_again, labels)
    assert len(extractions) == 1


def test_labels_may_be_several_or_none(tmp_path, model, monkeypatch):
    _, labels = cached_features(tmp_path, model, source(labels=False), 8, progress=False)
    np.testing.assert_array_equal(labels, -np.ones(23))
    several = np.arange(23 * 4).reshape(23, 4) % 3 - 1

    def batches(source, image_size, batch_size, *_, **__):
        parts = (data.normalize(source.images), several, np.arange(23), np.arange(23))
        return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)

    monkeypatch.setattr(feature_cache, "evaluation_batches", batches)
    for _ in range(2):
        _, labels = cached_features(tmp_path, model, source(), 8, batch_size=5, progress=False)
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, several)


def test_whatever_changes_features_or_labels_is_extracted_anew(tmp_path, model, extractions):
    whole = source()
    relabelled = data.ArraySource(whole.images, (whole.labels() + 1) % 3, "abc")
    unlabelled = data.ArraySource(whole.images)
    reordered = whole.subset(np.arange(23)[::-1])
    changed = backbone()
    changed.layers[-1].bias.assign_add(np.eye(5)[0] * 1e-3)
    relu = backbone()
    relu.layers[-1].activation = keras.activations.relu
    any_size = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    different = [
        (model, whole, 8, None),
        (model, source(seed=1), 8, None),
        (model, whole.subset(np.arange(22)), 8, None),
        (model, reordered, 8, None),
        (model, relabelled, 8, None),
        (model, unlabelled, 8, None),
        (model, whole, 8, 9),
        (changed, whole, 8, None),
        (relu, whole, 8, None),
        (any_size, whole, 4, 6),
        (any_size, whole, 5, 6),
    ]
    for settings in different:
        cached_features(tmp_path, *settings, progress=False)
    assert len(extractions) == len(different) == len(list(tmp_path.iterdir()))
    for settings in different:
        cached_features(tmp_path, *settings, progress=False)
    assert len(extractions) == len(different)


def test_a_saved_backbone_is_known_again(tmp_path, extractions):
    model = backbone()
    model.compile("sgd", "mse")  # how it is trained changes no feature
    model.save(tmp_path / "backbone.keras")
    keras.layers.Dense(3)  # shifts the names that Keras counts up
    loaded = keras.models.load_model(tmp_path / "backbone.keras", compile=False)
    for same in (model, loaded):
        cached_features(tmp_path / "cache", same, source(), 8, progress=False)
    assert len(extractions) == 1


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "truncated": lambda content: content[:-1],
    "a bit": lambda content: flipped(content, len(content) // 2),
    "header": lambda content: content.replace(b"(23, 5)", b"(22, 5)"),
    "a label": lambda content: flipped(content, len(content) - 4 - 46 - 128 - 12),
    "a name": lambda content: flipped(content, len(content) - 12),
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "short": lambda content: content[:100],
    "text": lambda content: b"no features\n" * 100,
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, model):
    """A cache with one file, and the features and labels in it."""
    folder = tmp_path_factory.mktemp("extracted")
    return folder, *map(np.array, cached_features(folder, model, source(), 8, None, 5, False))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_extracted_anew(tmp_path, model, extracted, extractions, damage):
    folder, features, labels = extracted
    whole = only_file(folder)
    (tmp_path / whole.name).write_bytes(DAMAGES[damage](whole.read_bytes()))
    mended, mended_labels = cached_features(tmp_path, model, source(), 8, progress=False)
    assert len(extractions) == 1
    np.testing.assert_allclose(mended, features, atol=1e-6)
    np.testing.assert_array_equal(mended_labels, labels)
    only_file(tmp_path)


def write_photographs(folder, n=120):
    random = np.random.default_rng(0)
    for number in range(n):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (9, 10, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number:03}.png")


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_unreadable_images_are_left_out(tmp_path, model, cache_bytes):
    write_photographs(tmp_path / "images")
    (tmp_path / "images" / "a" / "010.png").write_bytes(b"no image")
    files, _ = data.open_source(f"folder:{tmp_path / 'images'}", cache_bytes=cache_bytes)
    for _ in range(2):
        features, labels = cached_features(
            tmp_path / "cache", model, files, 8, batch_size=50, progress=False
        )
        assert features.shape == (119, 5)
        np.testing.assert_array_equal(labels, [0] * 59 + [1] * 60)


def test_too_many_unreadable_images_are_named_and_leave_nothing(tmp_path, model):
    write_photographs(tmp_path / "images", 20)
    for name in ("000", "002", "004"):
        (tmp_path / "images" / "a" / f"{name}.png").write_bytes(b"no image")
    for cache_bytes in (0, 2**30):
        files, _ = data.open_source(f"folder:{tmp_path / 'images'}", cache_bytes=cache_bytes)
        with pytest.raises(data.DataError, match="3 unreadable of 20"):
            cached_features(tmp_path / "cache", model, files, 8, progress=False)
    assert not list((tmp_path / "cache").iterdir())


def test_files_are_told_apart_by_name_size_and_time(tmp_path):
    write_photographs(tmp_path / "images", 4)
    opened = lambda: data.open_source(f"folder:{tmp_path / 'images'}")[0]  # noqa: E731
    first = opened().fingerprint()
    assert opened().fingerprint() == first
    assert opened().subset([0, 1, 2]).fingerprint() != first
    assert opened().subset([0, 1, 2, 3]).fingerprint() == first
    assert opened().cached().num_examples == 4
    file = tmp_path / "images" / "a" / "000.png"
    os.utime(file, (1, 1))
    second = opened().fingerprint()
    assert second != first
    file.rename(file.with_name("0.png"))
    third = opened().fingerprint()
    assert third not in (first, second)
    (tmp_path / "images").rename(tmp_path / "moved")
    assert data.open_source(f"folder:{tmp_path / 'moved'}")[0].fingerprint() == third


def test_fingerprints_of_what_is_in_memory():
    decoded = source().cached()
    assert decoded.fingerprint() == source().fingerprint()
    strings = BytesSource([b"ab", b"c"], ["1", "2"])
    assert strings.fingerprint() != BytesSource([b"a", b"bc"], ["1", "2"]).fingerprint()
    assert strings.subset([1, 0]).fingerprint() != strings.fingerprint()
    assert strings.subset([0, 1]).fingerprint() == strings.fingerprint()


def jpeg(value):
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (value,) * 3).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.slow
def test_data_sets_of_tfds_are_told_apart_by_name_and_split(tmp_path, model):
    train = [[jpeg(20 * label + n) for n in range(4)] for label in range(3)]
    write_archives(tmp_path, train, [jpeg(200), jpeg(201)], test=[jpeg(210)])

    def opened(split):
        spec = f"tfds:imagenet2012:{split}"
        return data.open_source(spec, str(tmp_path), cache_bytes=0)[0]  # streamed

    splits = ("train", "train[:50%]", "train[50%:]", "validation")
    found = {split: opened(split).fingerprint() for split in splits}
    assert len(set(found.values())) == 4
    whole = opened("train")
    assert whole.fingerprint() == found["train"]
    features, labels = cached_features(tmp_path / "cache", model, whole, 8, 9, 5, False)
    assert features.shape == (12, 5)
    assert len(set(names := names_in(tmp_path / "cache"))) == 12
    assert names[0].endswith(".JPEG")
    np.testing.assert_array_equal(labels, whole.labels())


def test_fingerprints_of_unlike_values_differ():
    zeros = np.zeros(2, np.int32)
    values = [(zeros,), (zeros.view(np.int64),), (zeros[None],), (np.zeros(2, np.float32),)]
    values += [("ab",), ("a", "b"), (b"ab",), (("a", "b"),), (("a",), "b"), (1,), (1.0,), ("1",)]
    values += [(None,), (), ((),), (np.zeros(0),), (zeros, zeros), (np.zeros(4, np.int32),)]
    assert len({fingerprint(*value) for value in values}) == len(values)
    assert fingerprint(np.int64(3), np.float64(0.5)) == fingerprint(3, 0.5)
    with pytest.raises(TypeError, match="no fingerprint"):
        fingerprint(object())
    # Of what memory holds between the entries nothing counts.
    every_other = np.arange(6)[::2]
    assert fingerprint(every_other) == fingerprint(every_other.copy())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, model, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=23 * 5 * 4 - 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(OSError, match=r"need 0\.00 GB for arrays in .* are free") as error:
            cached_features(tmp_path, model, source(), 8, progress=False)
    assert "\n" not in str(error.value)

    def full(file, *others):
        """As on a disk with room for a single batch."""
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        disk = mock.Mock(wraps=file, write=mock.Mock(side_effect=[None, None, error]))
        disk.name = file.name
        write(disk, *others)

    write = feature_cache._write
    monkeypatch.setattr(feature_cache, "_write", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        cached_features(tmp_path, model, source(), 8, batch_size=4, progress=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_two_extractions_at_the_same_time_do_no_harm(tmp_path, model, monkeypatch):
    original, other = feature_cache.feature_batches, []

    def interrupted(*arguments, **settings):
        batches = original(*arguments, **settings)
        yield next(batches)
        monkeypatch.setattr(feature_cache, "feature_batches", original)
        other.extend(cached_features(tmp_path, model, source(), 8, batch_size=4, progress=False))
        yield from batches

    monkeypatch.setattr(feature_cache, "feature_batches", interrupted)
    features, _ = cached_features(tmp_path, model, source(), 8, batch_size=4, progress=False)
    np.testing.assert_array_equal(features, other[0])
    only_file(tmp_path)


def test_a_file_that_was_given_the_name_of_another_is_not_used(tmp_path, model):
    labels = np.arange(3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), np.uint8)
    both = [data.ArraySource(part, labels, ["a", "b", "c"]) for part in pixels]

    def features():
        found = [cached_features(tmp_path, model, one, 8, progress=False)[0] for one in both]
        return [array.tolist() for array in found]

    right = features()
    one, other = tmp_path.iterdir()
    for old, new in ((one, "x"), (other, one.name), (tmp_path / "x", other.name)):
        old.rename(tmp_path / new)
    assert features() == right


def test_what_a_killed_extraction_left_disappears(tmp_path, model):
    files = abandoned(tmp_path / "a.npy"), partial_of(tmp_path / "a.npy")
    for file in files:
        pathlib.Path(file).write_text("")
    cached_features(tmp_path, model, source(), 8, progress=False)
    assert list(map(os.path.exists, files)) == [False, True]


def test_an_interrupted_extraction_leaves_nothing(tmp_path, model, monkeypatch):
    original = feature_cache.feature_batches

    def interrupted(*arguments, **settings):
        yield next(original(*arguments, **settings))
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache, "feature_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, model, source(), 8, batch_size=4, progress=False)
    assert not list(tmp_path.iterdir())


def cut(file, by):
    file.write_bytes(file.read_bytes()[:-by])


def added(file, content):
    file.write_bytes(file.read_bytes() + content)


# What is damaged of what an extraction left → images before the place where the next goes on.
LEFT = {
    "nothing": (lambda features, journal: None, 15),
    "features half written": (lambda features, journal: added(features, b"x" * 33), 15),
    "a line half written": (lambda features, journal: cut(journal, 9), 10),
    "no line": (lambda features, journal: journal.write_bytes(b"x"), 0),
    "no journal": (lambda features, journal: journal.unlink(), 0),
    "other features": (
        lambda features, journal: features.write_bytes(flipped(features.read_bytes(), 270)),
        5,
    ),
    "fewer features": (lambda features, journal: cut(features, 1), 10),
    "no features": (lambda features, journal: features.unlink(), 0),
}


def interrupt_after(batches, monkeypatch, extract):
    """Calls what extracts features, interrupted after some batches, of which all are noted."""

    def interrupted(*arguments, **settings):
        extracted = feature_cache_batches(*arguments, **settings)
        yield from (next(extracted) for _ in range(batches))
        raise KeyboardInterrupt

    feature_cache_batches = feature_cache.feature_batches
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "_SECONDS", 0)
        patch.setattr(feature_cache, "feature_batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract()


@pytest.fixture(scope="module")
def left(tmp_path_factory, model):
    """What an extraction leaves that is interrupted after three batches of five images."""
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(3, patch, lambda: cached_features(folder, model, source(), 8, batch_size=5))
    return folder


@pytest.mark.parametrize("damage", LEFT)
def test_an_interrupted_extraction_is_gone_on_with(
    tmp_path, model, extracted, left, capsys, damage
):
    shutil.copytree(left, tmp_path, dirs_exist_ok=True)
    files = sorted(tmp_path.iterdir(), reverse=True)
    assert [path.suffix for path in files] == [".unfinished", ".journal"]
    damaged, images = LEFT[damage]
    damaged(*files)
    capsys.readouterr()
    cached_features(tmp_path, model, source(), 8, batch_size=5)
    said = f"Going on after {images} of 23 images" if images else " 0/23 "
    assert said in capsys.readouterr().out
    folder, *_ = extracted
    assert only_file(tmp_path).read_bytes() == only_file(folder).read_bytes()


@pytest.mark.slow
def test_images_that_could_not_be_read_before_an_interruption_count(tmp_path, monkeypatch):
    write_photographs(tmp_path / "images", 20)
    for name in ("a/002.png", "b/019.png"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    unreadable = []

    def extract():
        decoding = data.Decoding(max_unreadable=0.1)
        files, _ = data.open_source(f"folder:{tmp_path / 'images'}", None, 0, decoding)
        found = cached_named_features(tmp_path / "cache", backbone(), files, 8, None, 5, False)
        unreadable.extend(files.unreadable.names)
        return found

    interrupt_after(2, monkeypatch, extract)
    assert not unreadable
    _, labels, names = extract()
    assert unreadable == ["a/002.png", "b/019.png"]
    assert names == sorted({f"{'ab'[n % 2]}/{n:03}.png" for n in range(20)} - set(unreadable))
    np.testing.assert_array_equal(labels, [0] * 9 + [1] * 9)


def test_a_progress_bar_is_shown_only_when_features_are_extracted(tmp_path, capsys):
    write_photographs(tmp_path / "images", 12)
    files, _ = data.open_source(f"folder:{tmp_path / 'images'}", cache_bytes=0)
    cached_features(tmp_path / "cache", backbone(), files, 8, batch_size=5)
    output = capsys.readouterr().out
    assert "0/12" in output  # the number of images is known from the start
    assert "12/12" in output
    assert "image/s" in output
    cached_features(tmp_path / "cache", backbone(), files, 8, batch_size=5)
    assert capsys.readouterr().out == ""


def test_a_backbone_without_configuration_is_refused(tmp_path):
    class Opaque(keras.Model):
        def __init__(self, secret):
            super().__init__()
            self.secret = object()

    with pytest.raises(ValueError, match="must have a configuration"):
        cached_features(tmp_path, Opaque(object()), source(), 8)


def test_images_decoded_in_another_way_are_others(tmp_path):
    Image.new("RGBA", (4, 5)).save(tmp_path / "a.png")
    ways = [{}, {"background": "black"}, {"exif": "apply"}, {"max_pixels": 20}]
    sources = [
        data.open_source(f"folder:{tmp_path}", decoding=data.Decoding(**way))[0] for way in ways
    ]
    assert len({source.fingerprint() for source in sources}) == len(ways)
    lenient = data.Decoding(max_unreadable=0.5)
    same, _ = data.open_source(f"folder:{tmp_path}", decoding=lenient)
    assert same.fingerprint() == sources[0].fingerprint()
