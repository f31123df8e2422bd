import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_imagenet import write_archives

from keras_bt.data import DataError, labelled_features, labelled_views, reading
from keras_bt.data import pretraining as view_batches
from keras_bt.data.encoded import FileSource
from keras_bt.data.sources import ArraySource
from keras_bt.data.specs import open_source
from keras_bt.data.tfds import RecordSource

N, BATCH = 22, 8  # image number n has the value 10 · n everywhere and the label n
STEPS = 3  # 8 + 8 + 6


class Look:
    """A stand-in for `augmentations.View`.

    The crop adds a draw from 0..4 to every pixel, the rest one from 0..0.4: of a view's value v,
    v // 10 is the number of the image, and what remains tells the draws.
    """

    crop = None

    def __init__(self, crops=True):
        if crops:
            self.crop = self._crop

    def _crop(self, inputs):
        if inputs["images"].shape.rank == 4:
            draws = tf.random.stateless_uniform([len(inputs["images"]), 1, 1, 1], inputs["seed"])
            return {"images": inputs["images"] + 4 * draws}
        draw = 4 * tf.random.stateless_uniform([], inputs["seed"])
        pixel = tf.cast(inputs["images"][0, 0], tf.float32)
        return {"images": tf.broadcast_to(pixel + draw, [6, 6, 3])}

    def rest(self, images, seed):
        return images + 0.4 * tf.random.stateless_uniform([len(images), 1, 1, 1], seed + 1)

    def __call__(self, images, seed):
        return self.rest(images, seed)


@pytest.fixture
def make_source(tmp_path):
    def make(kind, n=N, broken=()):
        names = [str(number) for number in range(n)]
        if kind in ("arrays", "large arrays"):
            gray = np.arange(n, dtype=np.uint8)[:, None, None, None] * 10
            side = {"arrays": 5, "large arrays": 200}[kind]
            return ArraySource(np.tile(gray, (1, side, side, 1)), np.arange(n), names)
        for number in range(n):
            path = tmp_path / f"{number:02}.png"
            Image.new("RGB", (3 + number, 7), (10 * number,) * 3).save(path)
            if number in broken:
                path.write_bytes(b"broken")
        paths = sorted(map(str, tmp_path.glob("*.png")))
        cache = {"files": 0, "cached files": 10**6}[kind]
        return FileSource(paths, str(tmp_path), range(n), names, cache_bytes=cache, name="folder")

    return make


KINDS = ["arrays", "files"]
KINDS += [pytest.param(kind, marks=pytest.mark.slow) for kind in ("large arrays", "cached files")]
BOTH_WAYS = ["arrays", "files"]


def look(batches, steps):
    """(values, labels) of each batch; every label belongs to its image."""
    found = []
    for images, labels in batches.take(steps).as_numpy_iterator():
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        assert np.ptp(images, axis=(1, 2, 3)).max() < 1e-4
        values = images[:, 0, 0, 0]
        np.testing.assert_array_equal(np.floor(values / 10 + 1e-4), labels)
        found.append((values, labels))
    return found


def join(found):
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_epoch_is_a_permutation_of_all_images_and_its_last_batch_is_short(make_source, kind):
    found = look(labelled_views(make_source(kind), Look(), BATCH, seed=1), 3 * STEPS)
    assert [len(labels) for _, labels in found] == [8, 8, 6] * 3
    epochs = [join(found[e * STEPS : (e + 1) * STEPS])[1] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(N))
    assert len({tuple(epoch) for epoch in [*epochs, range(N)]}) == 4


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_no_draw_is_made_twice(make_source, kind):
    values, _ = join(look(labelled_views(make_source(kind), Look(), BATCH, seed=1), 4 * STEPS))
    assert len(np.unique(values % 10)) == len(values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_nothing_else(make_source, kind):
    source = make_source(kind)

    def run(seed, threads=4):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        batches = labelled_views(source, Look(), BATCH, seed).with_options(options)
        return join(look(batches, 2 * STEPS))[0]

    first = run(3)
    tf.random.set_seed(99)
    np.testing.assert_array_equal(first, run(3, threads=1))
    assert (first != run(4)).mean() > 0.9


@pytest.mark.parametrize("kind", BOTH_WAYS)
@pytest.mark.parametrize("first_epoch", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_starts_later_continues_it(make_source, kind, first_epoch):
    source = make_source(kind)
    whole = look(labelled_views(source, Look(), BATCH, seed=5), 4 * STEPS)
    rest = labelled_views(source, Look(), BATCH, seed=5, first_epoch=first_epoch)
    rest = look(rest, (4 - first_epoch) * STEPS)
    np.testing.assert_array_equal(join(rest)[0], join(whole[first_epoch * STEPS :])[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_blocks_do_not_show_in_the_batches(make_source, kind, monkeypatch):
    source = make_source(kind)
    expected = look(labelled_views(source, Look(), BATCH, seed=5), 2 * STEPS)
    monkeypatch.setattr(view_batches, "_BLOCK", 4 * 36 + 3)
    found = look(labelled_views(source, Look(), BATCH, seed=5), 2 * STEPS)
    for (_, labels), (_, same_labels) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(labels, same_labels)
    values, _ = join(found)
    assert len(np.unique(values % 10)) == len(values)  # each block draws for itself


def test_a_crop_depends_on_the_image_and_the_epoch_but_not_on_the_batch_size(make_source):
    source, no_rest = make_source("files"), Look()
    no_rest.rest = lambda images, seed: images

    def epochs(batch_size):
        steps = 2 * -(-N // batch_size)
        return join(look(labelled_views(source, no_rest, batch_size, seed=5), steps))[0]

    values = epochs(8)
    np.testing.assert_array_equal(values, epochs(5))
    assert len(np.unique(values % 10)) == len(values)


@pytest.mark.parametrize(
    "size", [1, *(pytest.param(size, marks=pytest.mark.slow) for size in (22, 50))]
)
@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_any_batch_size_will_do(make_source, kind, size):
    batches = labelled_views(make_source(kind), Look(), size, seed=1)
    found = look(batches, 2 * -(-N // size))
    labels = join(found)[1]
    assert sorted(labels[:N]) == sorted(labels[N:]) == list(range(N))


@pytest.mark.parametrize("kind", ["files", pytest.param("cached files", marks=pytest.mark.slow)])
def test_unreadable_images_are_left_out_and_move_no_other(make_source, kind):
    whole = look(labelled_views(make_source(kind), Look(), BATCH, seed=2), 2 * STEPS)
    source = make_source(kind, broken=[7])
    found = look(labelled_views(source, Look(), BATCH, seed=2), 2 * STEPS)
    for (values, labels), (whole_values, whole_labels) in zip(found, whole, strict=True):
        kept = whole_labels != 7
        np.testing.assert_array_equal(labels, whole_labels[kept])
        np.testing.assert_allclose(values, whole_values[kept], atol=1)  # other draws of the rest
    assert source.unreadable.names == ("07.png",)


@pytest.mark.parametrize("kind", ["files", pytest.param("cached files", marks=pytest.mark.slow)])
def test_no_batch_is_empty(make_source, kind):
    source = make_source(kind, broken=[7])
    found = look(labelled_views(source, Look(), 1, seed=2), 2 * (N - 1))
    assert {len(labels) for _, labels in found} == {1}
    assert 7 not in join(found)[1]


def test_too_many_unreadable_images_are_the_users_mistake(make_source):
    source = make_source("files", broken=[7, 8])
    with pytest.raises(DataError, match="2 unreadable of 22 in folder"), reading(source):
        list(labelled_views(source, Look(), BATCH, seed=2).take(STEPS))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """ImageNet in small, 7 images of each of 3 classes, read from its records time and again."""
    folder = tmp_path_factory.mktemp("tfds")

    def gray(value):
        file = io.BytesIO()
        Image.new("RGB", (9 + value, 7), (value,) * 3).save(file, "PNG")
        return file.getvalue()

    train = [[gray(10 * (7 * label + n)) for n in range(7)] for label in range(3)]
    write_archives(folder, train, [gray(1)], [gray(1)])
    return open_source("tfds:imagenet2012", str(folder), cache_bytes=0)[0]


@pytest.mark.slow
def test_records_that_do_not_fit_in_memory(records):
    assert isinstance(records, RecordSource)

    def run(first_epoch, epochs, seed=3):
        batches = labelled_views(records, Look(), 8, seed, first_epoch)
        found = list(batches.take(3 * epochs).as_numpy_iterator())
        assert [len(labels) for _, labels in found] == [8, 8, 5] * epochs
        values, labels = join([(images[:, 0, 0, 0], labels) for images, labels in found])
        numbers = np.floor(values / 10 + 1e-4).astype(int)
        np.testing.assert_array_equal(labels, numbers // 7)
        return values, numbers

    values, numbers = run(0, 3)
    for epoch in numbers.reshape(3, 21):
        assert sorted(epoch) == list(range(21))
    assert len({tuple(epoch) for epoch in numbers.reshape(3, 21)}) == 3
    assert len(np.unique(values % 10)) == len(values)
    np.testing.assert_array_equal(run(1, 2)[0], values[21:])
    assert (run(0, 1, seed=4)[1] != numbers[:21]).any()


def test_without_crops_images_need_a_size(make_source):
    with pytest.raises(DataError, match=r"random crop, or an image_size.*Received: folder"):
        labelled_views(make_source("files"), Look(crops=False), BATCH, seed=5)
    sized = labelled_views(make_source("files"), Look(crops=False), BATCH, seed=5, image_size=4)
    assert sized.element_spec[0].shape.as_list() == [None, 4, 4, 3]
    assert sorted(join(look(sized, STEPS))[1]) == list(range(N))


def test_features_come_in_the_order_of_the_images(make_source, tmp_path):
    np.save(tmp_path / "features.npy", np.arange(3 * N, dtype=np.float32).reshape(N, 3))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    for first_epoch in (0, 1):
        expected = look(
            labelled_views(make_source("arrays"), Look(), BATCH, 5, first_epoch), 2 * STEPS
        )
        batches = labelled_features(features, np.arange(N), BATCH, 5, first_epoch)
        found = list(batches.take(2 * STEPS).as_numpy_iterator())
        for (rows, labels), (_, wanted) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(labels, wanted)
            np.testing.assert_array_equal(rows, features[wanted])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"first_epoch": -1}, "first_epoch must be at least 0"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_impossible_numbers_are_refused(make_source, arguments, message):
    numbers = {"batch_size": 8, "seed": 1} | arguments
    with pytest.raises(ValueError, match=message):
        labelled_views(make_source("arrays"), Look(), **numbers)
    with pytest.raises(ValueError, match=message):
        labelled_features(np.zeros((4, 2), np.float32), np.arange(4), **numbers)


def test_one_label_per_image_is_needed(make_source):
    unlabelled = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), name="photos")
    with pytest.raises(DataError, match=r"one label each\. Received: photos, which has no labels"):
        labelled_views(unlabelled, Look(), BATCH, seed=5)
    several = make_source("arrays")
    several.multilabel = True
    with pytest.raises(DataError, match="which has several labels per image"):
        labelled_views(several, Look(), BATCH, seed=5)
    with pytest.raises(DataError, match=r"one label per feature. Received: labels of shape \(5,\)"):
        labelled_features(np.zeros((4, 2), np.float32), np.arange(5), 2, 0)
