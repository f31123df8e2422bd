"""Features on disk: what is stored, when it is used again, and when it must not be."""

import errno
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from places import ROOT
from tiny_imagenet import write_archives

from keras_bt import data
from keras_bt.data.encoded import BytesSource
from keras_bt.data.fingerprint import fingerprint
from keras_bt.evaluation import feature_cache
from keras_bt.evaluation.feature_cache import cached_features


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


def test_the_file_is_numpys(tmp_path, model):
    features, labels = cached_features(tmp_path, model, source(), 8, progress=False)
    with open(only_file(tmp_path), "rb") as file:
        np.testing.assert_array_equal(np.load(file), features)
        np.testing.assert_array_equal(np.load(file), labels)


def test_labels_may_be_several_or_none(tmp_path, model, monkeypatch):
    _, labels = cached_features(tmp_path, model, source(labels=False), 8, progress=False)
    np.testing.assert_array_equal(labels, -np.ones(23))
    several = np.arange(23 * 4).reshape(23, 4) % 3 - 1

    def batches(source, image_size, batch_size, resize):
        images = data.normalize(source.images)
        return tf.data.Dataset.from_tensor_slices((images, several)).batch(batch_size)

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
    ]
    for settings in different:
        cached_features(tmp_path, *settings, progress=False)
    assert len(extractions) == len(different) == len(list(tmp_path.iterdir()))
    for settings in different:
        cached_features(tmp_path, *settings, progress=False)
    assert len(extractions) == len(different)


def test_image_size_is_part_of_the_name(tmp_path, extractions):
    any_size = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    for size in (4, 5, 4):
        cached_features(tmp_path, any_size, source(), size, 6, progress=False)
    assert len(extractions) == 2


@pytest.mark.slow
def test_a_saved_backbone_is_known_again_in_another_process(tmp_path, extractions):
    file = tmp_path / "backbone.keras"
    model = backbone()
    model.compile("sgd", "mse")  # how it is trained changes no feature
    model.save(file)
    loaded = keras.models.load_model(file, compile=False)
    cached_features(tmp_path / "cache", loaded, source(), 8, progress=False)
    key = only_file(tmp_path / "cache").name
    code = f"""
import keras, numpy as np
from keras_bt import data
from keras_bt.evaluation.feature_cache import cached_features
random = np.random.default_rng(0)
images = random.integers(0, 256, (23, 8, 8, 3), np.uint8)
source = data.ArraySource(images, random.integers(0, 3, 23), "abc", name="other")
keras.layers.Dense(3)  # shifts the names that Keras counts up
model = keras.models.load_model({str(file)!r})
cached_features({str(tmp_path / "cache")!r}, model, source, 8)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert only_file(tmp_path / "cache").name == key
    assert "batch" not in result.stdout  # no bar, so nothing was extracted
    cached_features(tmp_path / "cache", model, source(), 8, progress=False)
    assert len(extractions) == 1


def damage_truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def damage_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_header(path):
    path.write_bytes(path.read_bytes().replace(b"(23, 5)", b"(22, 5)"))


def damage_label(path):
    content = bytearray(path.read_bytes())
    content[-12] ^= 1
    path.write_bytes(content)


def damage_longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def damage_empty(path):
    path.write_bytes(b"")


def damage_short(path):
    os.truncate(path, 100)


def damage_text(path):
    path.write_text("no features\n" * 100)


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_bit,
        damage_header,
        damage_label,
        damage_longer,
        damage_empty,
        damage_short,
        damage_text,
    ],
)
def test_a_damaged_file_is_extracted_anew(tmp_path, model, extractions, damage):
    features, labels = cached_features(tmp_path, model, source(), 8, progress=False)
    features, labels = np.array(features), np.array(labels)
    damage(only_file(tmp_path))
    mended, mended_labels = cached_features(tmp_path, model, source(), 8, progress=False)
    assert len(extractions) == 2
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

    class FullDisk:
        """A file on a disk with room for a single batch."""

        def __init__(self, file):
            self.file, self.name = file, file.name

        def write(self, content):
            if self.file.tell() > 150:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(content)

        def flush(self):
            self.file.flush()

    write = feature_cache._write
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "_write", lambda file, *rest: write(FullDisk(file), *rest))
        with pytest.raises(OSError, match="No space left on device") as error:
            cached_features(tmp_path, model, source(), 8, batch_size=4, progress=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        cached_features(tmp_path / "file", model, source(), 8, progress=False)


def extract_slowly(folder, started):
    """In another process: extracts, a batch every half second."""
    original = feature_cache.feature_batches

    def slow(*arguments):
        for batch in original(*arguments):
            started.set()
            time.sleep(0.5)
            yield batch

    feature_cache.feature_batches = slow
    cached_features(folder, backbone(), source(), 8, batch_size=1, progress=False)


@pytest.mark.slow
def test_a_killed_extraction_and_another_at_the_same_time_do_no_harm(tmp_path, extractions):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=extract_slowly, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    features, _ = cached_features(tmp_path, backbone(), source(), 8, progress=False)  # meanwhile
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (abandoned,) = tmp_path.glob("*.partial")
    (file,) = tmp_path.glob("*.npy")
    again, _ = cached_features(tmp_path, backbone(), source(), 8, progress=False)
    np.testing.assert_array_equal(again, features)

    # What was abandoned disappears when it is certain that nobody writes to it any more.
    file.unlink()
    cached_features(tmp_path, backbone(), source(), 8, progress=False)
    assert abandoned.exists()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(abandoned, (two_days_ago, two_days_ago))
    file.unlink()
    cached_features(tmp_path, backbone(), source(), 8, progress=False)
    assert not abandoned.exists()


def test_an_interrupted_extraction_leaves_nothing(tmp_path, model, monkeypatch):
    original = feature_cache.feature_batches

    def interrupted(*arguments):
        yield next(original(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache, "feature_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, model, source(), 8, batch_size=4, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_progress_bar_is_shown_only_when_features_are_extracted(tmp_path, capsys):
    write_photographs(tmp_path / "images", 12)
    files, _ = data.open_source(f"folder:{tmp_path / 'images'}", cache_bytes=0)
    cached_features(tmp_path / "cache", backbone(), files, 8, batch_size=5)
    output = capsys.readouterr().out
    assert "1/3" in output  # the number of batches is known from the start
    assert "3/3" in output
    cached_features(tmp_path / "cache", backbone(), files, 8, batch_size=5)
    assert capsys.readouterr().out == ""


def test_a_backbone_without_configuration_is_refused(tmp_path):
    class Opaque(keras.Model):
        def __init__(self, secret):
            super().__init__()
            self.secret = object()

    with pytest.raises(ValueError, match="must have a configuration"):
        cached_features(tmp_path, Opaque(object()), source(), 8)
