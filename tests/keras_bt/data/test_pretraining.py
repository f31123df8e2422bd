import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_bt.data import pretraining as view_batches
from keras_bt.data.decoding import DataError
from keras_bt.data.encoded import FileSource
from keras_bt.data.pretraining import pretraining_views
from keras_bt.data.sources import ArraySource

N = 24  # images, number n of which has the value 10 · n everywhere


class Look:
    """A stand-in for `augmentations.View`.

    The crop adds a draw from 0..4 to every pixel, the rest one from 0..0.4: of a view's value v,
    v // 10 is the number of the image, and what remains tells the draws.
    """

    def __init__(self, salt, crops=True):
        self.salt = salt
        self.crop = self._crop if crops else None

    def _crop(self, inputs):
        if inputs["images"].shape.rank == 4:
            n = len(inputs["images"])
            draws = tf.random.stateless_uniform([n, 1, 1, 1], inputs["seed"] - self.salt)
            return {"images": inputs["images"] + 4 * draws}
        draw = 4 * tf.random.stateless_uniform([], inputs["seed"] + self.salt)
        pixel = tf.cast(inputs["images"][0, 0], tf.float32)
        return {"images": tf.broadcast_to(pixel + draw, [6, 6, 3])}

    def rest(self, images, seed):
        draws = tf.random.stateless_uniform([len(images), 1, 1, 1], seed + self.salt)
        return images + 0.4 * draws

    def __call__(self, images, seed):
        return self.rest(images, seed)


A, B = Look(1), Look(2)


def values(views):
    """Values of (view A, view B) in all batches: (steps, 2, batch)."""
    batches = [np.stack([a, b]) for a, b in views]
    assert max(np.ptp(batch, axis=(2, 3, 4)).max() for batch in batches) < 1e-4
    return np.stack(batches)[..., 0, 0, 0]


def numbers(views):
    return np.floor(values(views)[:, 0] / 10 + 1e-4).astype(int)


@pytest.fixture
def make_source(tmp_path):
    def make(kind, n=N, broken=()):
        if kind == "arrays":
            gray = np.arange(n, dtype=np.uint8)[:, None, None, None] * 10
            return ArraySource(np.tile(gray, (1, 5, 5, 1)))
        if kind == "large arrays":
            gray = np.arange(n, dtype=np.uint8)[:, None, None, None] * 10
            return ArraySource(np.tile(gray, (1, 200, 200, 3)))
        for number in range(n):
            path = tmp_path / f"{number:02}.png"
            Image.new("RGB", (3 + number, 7), (10 * number,) * 3).save(path)
            if number in broken:
                path.write_bytes(b"broken")
        paths = sorted(map(str, tmp_path.glob("*.png")))
        cache = {"files": 0, "cached files": 10**6}[kind]
        return FileSource(paths, str(tmp_path), cache_bytes=cache, name="folder")

    return make


KINDS = ["arrays", "files"]
KINDS += [pytest.param(kind, marks=pytest.mark.slow) for kind in ("large arrays", "cached files")]
BOTH_WAYS = ["arrays", "files"]  # batched first, and cropped first


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_contains_every_image_once_in_an_order_of_its_own(make_source, kind):
    views = pretraining_views(make_source(kind), A, B, batch_size=8, seed=1)
    epochs = numbers(views.take(9)).reshape(3, N)
    assert (np.sort(epochs) == np.arange(N)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert tuple(range(N)) not in {tuple(epoch) for epoch in epochs}


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_what_is_left_over_differs_from_epoch_to_epoch(make_source, kind):
    views = pretraining_views(make_source(kind), A, B, batch_size=10, seed=1)
    epochs = numbers(views.take(12)).reshape(6, 20)
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert set(epochs.ravel()) == set(range(N))


@pytest.mark.slow
def test_an_order_is_drawn_from_all_orders(make_source):
    source = make_source("arrays", n=4)
    views = pretraining_views(source, A, B, batch_size=4, seed=7).take(2400)
    orders, counts = np.unique(numbers(views), axis=0, return_counts=True)
    assert len(orders) == 24
    # χ² with 23 degrees of freedom exceeds 50 once in a thousand times.
    assert ((counts - 100) ** 2 / 100).sum() < 50


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_views_and_another_one_does_not(make_source, kind):
    source = make_source(kind)

    def run(seed):
        return values(pretraining_views(source, A, B, 8, seed).take(4))

    np.testing.assert_array_equal(run(3), run(3))
    tf.random.set_seed(99)
    np.testing.assert_array_equal(run(3), run(3))
    assert (run(3) != run(4)).mean() > 0.9


@pytest.mark.parametrize("kind", BOTH_WAYS)
@pytest.mark.parametrize(
    "first_step", [1, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 8))]
)
def test_a_run_that_starts_later_continues_it(make_source, kind, first_step):
    source = make_source(kind)
    whole = values(pretraining_views(source, A, B, batch_size=7, seed=5).take(12))
    tail = pretraining_views(source, A, B, batch_size=7, seed=5, first_step=first_step)
    np.testing.assert_array_equal(values(tail.take(12 - first_step)), whole[first_step:])


def test_starting_late_costs_nothing(make_source):
    source = make_source("files")
    start = time.perf_counter()
    views = pretraining_views(source, A, B, batch_size=8, seed=5, first_step=10**9)
    assert values(views.take(1)).shape == (1, 2, 8)
    assert time.perf_counter() - start < 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_the_number_of_threads_changes_nothing(make_source, kind):
    views = pretraining_views(make_source(kind), A, B, batch_size=8, seed=5).take(6)

    def with_threads(number):
        options = tf.data.Options()
        options.threading.private_threadpool_size = number
        return values(views.with_options(options))

    np.testing.assert_array_equal(with_threads(1), with_threads(16))


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_both_views_show_the_same_image_with_different_draws(make_source, kind):
    looks = values(pretraining_views(make_source(kind), A, B, batch_size=8, seed=5).take(6))
    assert (looks[:, 0] // 10 == looks[:, 1] // 10).all()
    # No draw is made twice: not in the other view, not in another image, not in another epoch.
    draws = looks % 10
    assert len(np.unique(draws)) == draws.size


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_two_views_of_the_same_layers_draw_differently(make_source, kind):
    a, b = values(
        pretraining_views(make_source(kind), A, A, batch_size=8, seed=1).take(3)
    ).swapaxes(0, 1)
    assert (np.floor(a / 10 + 1e-4) == np.floor(b / 10 + 1e-4)).all()
    assert (np.abs(a - b) > 1e-3).mean() > 0.9


def test_a_crop_depends_on_the_image_and_the_epoch_but_not_on_the_batch_size(make_source):
    source = make_source("files")
    no_rest = [Look(1), Look(2)]
    for look in no_rest:
        look.rest = lambda images, seed: images

    def epochs(batch_size):
        steps = 2 * N // batch_size
        looks = values(pretraining_views(source, *no_rest, batch_size, seed=5).take(steps))
        return np.moveaxis(looks, 1, 0).reshape(2, 2, N)

    looks = epochs(8)
    np.testing.assert_array_equal(looks, epochs(12))
    assert len(np.unique(looks % 10)) == looks.size


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [1, 2 * 5 * 5])
def test_shards_make_the_views_of_the_whole_where_blocks_are_alike(
    make_source, monkeypatch, pixels
):
    monkeypatch.setattr(view_batches, "_BLOCK", pixels)  # blocks of one image, and of two
    source = make_source("arrays")
    whole = values(pretraining_views(source, A, B, batch_size=8, seed=5, first_step=1).take(7))
    for count in (2, 4):
        shards = [
            pretraining_views(source, A, B, 8, 5, 1, shard_index=i, num_shards=count).take(7)
            for i in range(count)
        ]
        together = np.concatenate([values(shard) for shard in shards], axis=-1)
        np.testing.assert_array_equal(together, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_shards_divide_the_batches(make_source, kind):
    source = make_source(kind)
    whole = pretraining_views(source, A, B, batch_size=8, seed=5)
    shards = [
        values(pretraining_views(source, A, B, 8, 5, shard_index=i, num_shards=2).take(7))
        for i in range(2)
    ]
    assert [shard.shape for shard in shards] == [(7, 2, 4)] * 2
    together = np.concatenate(shards, axis=-1)
    np.testing.assert_array_equal(together // 10, values(whole.take(7)) // 10)
    draws = together % 10
    assert len(np.unique(draws)) == draws.size
    # The shards' own files are theirs already: TensorFlow must not divide them again.
    options = pretraining_views(source, A, B, 8, 5, num_shards=2).options()
    policy = options.experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.OFF


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_blocks_do_not_show_in_the_batches(make_source, kind, monkeypatch):
    source = make_source(kind)
    expected = numbers(pretraining_views(source, A, B, batch_size=12, seed=5).take(5))
    side = {"arrays": 5, "files": 6}[kind]
    monkeypatch.setattr(view_batches, "_BLOCK", 4 * side**2 + 3)
    views = pretraining_views(source, A, B, batch_size=12, seed=5)
    assert views.element_spec[0].shape == (12, side, side, 3)
    looks = values(views.take(5))
    np.testing.assert_array_equal(looks[:, 0] // 10, expected)
    assert len(np.unique(looks % 10)) == looks.size  # each block draws for itself
    tail = pretraining_views(source, A, B, batch_size=12, seed=5, first_step=3)
    np.testing.assert_array_equal(values(tail.take(2)), looks[3:])


@pytest.mark.parametrize("kind", ["files", pytest.param("cached files", marks=pytest.mark.slow)])
def test_a_neighbour_takes_the_place_of_an_unreadable_image(make_source, kind):
    expected = numbers(pretraining_views(make_source(kind), A, B, batch_size=8, seed=5).take(6))
    source = make_source(kind, broken=[7])
    views = pretraining_views(source, A, B, batch_size=8, seed=5)
    looks = values(views.take(6))
    rows, columns = np.nonzero(expected == 7)
    assert len(rows) == 2
    for row, column in zip(rows, columns, strict=True):
        expected[row, column] = expected[row, (column + 1) % 8]
    np.testing.assert_array_equal(looks[:, 0] // 10, expected)
    np.testing.assert_array_equal(looks[:, 1] // 10, expected)
    assert source.unreadable.names == ("07.png",)
    # It is cut alike, but not colored alike.
    assert len(np.unique(looks % 10)) == looks.size
    tail = pretraining_views(source, A, B, batch_size=8, seed=5, first_step=4)
    np.testing.assert_array_equal(values(tail.take(2)), looks[4:])


def test_more_than_one_per_cent_unreadable_stop_the_run(make_source):
    with pytest.raises(DataError, match=r"2 unreadable of 24 in folder: 07\.png, 11\.png\.$"):
        pretraining_views(make_source("cached files", broken=[7, 11]), A, B, 8, seed=5)
    source = make_source("files", broken=[7, 11])
    with pytest.raises(tf.errors.OpError, match=r"07\.png, 11\.png"):
        values(pretraining_views(source, A, B, batch_size=8, seed=5).take(3))


def test_the_next_readable_image():
    readable = tf.constant([False, True, False, False, True, True, False])
    found = view_batches._next_readable(readable)
    np.testing.assert_array_equal(found, [1, 1, 4, 4, 4, 5, 1])
    np.testing.assert_array_equal(view_batches._next_readable(tf.zeros(3, bool)), [0, 1, 2])


@pytest.mark.parametrize("kind", ["files", pytest.param("cached files", marks=pytest.mark.slow)])
def test_without_crops_images_need_a_size(make_source, kind):
    views = Look(1, crops=False), Look(2, crops=False)
    with pytest.raises(DataError, match=r"random crop, or an image_size.*Received: folder"):
        pretraining_views(make_source(kind), *views, batch_size=8, seed=5)
    sized = pretraining_views(make_source(kind), *views, batch_size=8, seed=5, image_size=4)
    assert sized.element_spec[1].shape == (8, 4, 4, 3)
    assert sorted(numbers(sized.take(3)).ravel()) == list(range(N))


def test_without_crops_images_in_memory_keep_their_size(make_source):
    views = Look(1, crops=False), Look(2, crops=False)
    sized = pretraining_views(make_source("large arrays"), *views, batch_size=8, seed=5)
    assert sized.element_spec[0] == tf.TensorSpec((8, 200, 200, 3), tf.float32)
    assert sorted(numbers(sized.take(3)).ravel()) == list(range(N))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"batch_size": 1}, "at least 2.*Received: batch_size=1"),
        ({"batch_size": 0}, "at least 2"),
        ({"batch_size": 25}, "Received: batch_size=25 for 24 images in arrays"),
        ({"num_shards": 3}, "divisible by the number of workers"),
        ({"num_shards": 2, "shard_index": 2}, "shard_index must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**31}, "seed must be"),
        ({"first_step": -1}, "first_step must be"),
    ],
)
def test_impossible_numbers_are_refused(make_source, numbers, message):
    arguments = {"batch_size": 8, "seed": 1} | numbers
    with pytest.raises(ValueError, match=message) as error:
        pretraining_views(make_source("arrays"), A, B, **arguments)
    assert isinstance(error.value, DataError) == (str(error.value).startswith("batch_size"))
