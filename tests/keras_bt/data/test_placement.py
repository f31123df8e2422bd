"""Where and how views are made: on the host, compiled or not, or on the device that trains."""

import concurrent.futures
from unittest import mock

import keras
import numpy as np
import pytest
import script
import small_network
import tensorflow as tf
from PIL import Image
from places import ROOT

from keras_bt import LARS, BarlowTwins, augmentations, preprocessing, projector
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import RunCheckpoint
from keras_bt.data import pipeline, pretraining
from keras_bt.data.arrays import ArraySource
from keras_bt.data.encoded import FileSource
from keras_bt.data.pretraining import pretraining_views
from keras_bt.strategy import choose_strategy
from trainers.runs import pretraining as run

LEVEL = 1 / (255 * max(preprocessing.IMAGENET_STD))  # a difference of one level, normalized


@pytest.fixture(scope="module")
def pictures():
    """24 cuts of a photograph, uint8 (24, 40, 40, 3)."""
    with np.load(ROOT / "tests" / "fixtures" / "augmentation.npz") as fixture:
        source = fixture["source"]
    rng = np.random.default_rng(0)
    corners = zip(*(rng.integers(0, side - 40, 24) for side in source.shape[:2]), strict=True)
    return np.stack([source[y : y + 40, x : x + 40] for y, x in corners])


@pytest.fixture(scope="module")
def arrays(pictures):
    return ArraySource(pictures)


@pytest.fixture(scope="module")
def files(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return FileSource(sorted(map(str, folder.glob("*.png"))), str(folder), cache_bytes=0)


def few_layers():
    """Two views that TensorFlow traces in a moment."""
    layers = [
        augmentations.RandomResizedCrop(32),
        augmentations.RandomFlip(0.5),
        augmentations.RandomColorJitter(brightness=0.4),
        augmentations.Normalize(preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD),
    ]
    return [augmentations.View(layers)] * 2


def small_model(views=None, size=32):
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.layers.Input((size, size, 3))])
    backbone.add(keras.layers.Conv2D(8, 5, strides=4, use_bias=False))
    backbone.add(keras.layers.BatchNormalization())
    backbone.add(keras.layers.Activation("softplus"))
    backbone.add(keras.layers.GlobalAveragePooling2D())
    rest = None if views is None else [view.rest for view in views]
    return BarlowTwins(backbone, projector((16, 16), input_dim=8), views=rest)


def losses(model, data, callbacks=()):
    fit = {"epochs": 4, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    return model.fit(data, callbacks=list(callbacks), **fit).history["loss"]


# On the host, compiled


def one_full_view():
    """One view with all layers at work, beside one that is nothing but a crop."""
    _, full = augmentations.barlow_twins_views(64, blur=(0.0, 0.5), solarize=(0.0, 0.5))
    return full, augmentations.View([augmentations.RandomResizedCrop(64)])


@pytest.fixture(scope="module")
def compiled(files):
    """Six batches that XLA makes: the data set, and as arrays."""
    views = one_full_view()
    data = pretraining_views(files, *views, 8, seed=1).take(6)
    return data, [np.stack(batch) for batch in data]


@pytest.mark.slow
def test_compiled_views_are_the_same_views(files, compiled):
    views = one_full_view()
    plain = next(iter(pretraining_views(files, *views, 8, seed=1, compile_views=False)))
    for ours, theirs in zip(plain, compiled[1][0], strict=True):
        assert np.std(ours) > 0.3  # normalized or 0..255
        np.testing.assert_allclose(ours, theirs, atol=0.01 * LEVEL)


@pytest.mark.slow
def test_compiled_views_are_reproducible_to_the_bit_under_load(compiled):
    data, quiet = compiled
    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # each is the others' load
        for batches in pool.map(lambda _: list(data), range(3)):
            for batch, expected in zip(batches, quiet, strict=True):
                np.testing.assert_array_equal(np.stack(batch), expected)


@pytest.mark.slow
def test_what_is_compiled_by_default(files, arrays, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        pipeline.tf,
        "function",
        lambda function, jit_compile=None, **_: compiled.append(jit_compile) or function,
    )

    def compiles(source, views, again=False, **kwargs):
        compiled.clear()
        if not again:
            pipeline._compiled_rest.cache_clear()
        pretraining_views(source, *views, 8, seed=1, **kwargs)
        return True in compiled

    flip, crop = augmentations.RandomFlip(), augmentations.RandomResizedCrop(64)
    small = [augmentations.View([augmentations.RandomResizedCrop(63), flip])] * 2
    large = [augmentations.View([crop, flip])] * 2
    foreign = [augmentations.View([crop, tf.abs]), augmentations.View([crop])]
    for source in (files, arrays):
        assert compiles(source, large)

    def eager(source, views, order, finish, *_):
        """Decides as a whole pipeline does, which takes a second to trace."""
        crops = (tf.zeros((8, *views[0].crop.size, 3), tf.uint8),) * 2
        finish(crops, None, tf.ones(8, tf.bool), tf.zeros((8, 2), tf.int64))
        return tf.data.Dataset.range(1)

    monkeypatch.setattr(pretraining, "view_batches", eager)
    assert compiles(arrays, large)
    assert not compiles(arrays, large, again=True)  # the same views: compiled already
    assert not compiles(arrays, small)
    assert not compiles(arrays, foreign)
    assert not compiles(arrays, large, compile_views=False)
    assert not compiles(arrays, large, augment_on="device")
    assert compiles(arrays, small, compile_views=True)
    assert compiles(arrays, foreign, compile_views=True)


# On the device


def on_host_and_device(source, views):
    """Batches of 12; the host makes them in blocks, which it does not need for the device."""
    with mock.patch.object(pipeline, "_BLOCK", 4 * 40 * 40):
        return [
            pretraining_views(source, *views, 12, seed=3, augment_on=place)
            for place in ("host", "device")
        ]


@pytest.fixture(scope="module")
def of_files(files):
    """The views of few layers, made on the host and for the device."""
    return on_host_and_device(files, few_layers())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_the_device_makes_the_views_that_the_host_makes(kind, arrays, of_files):
    # All layers once: files differ up to the crop, where arrays are cropped in batches.
    views = augmentations.barlow_twins_views(32) if kind == "arrays" else few_layers()
    host, device = on_host_and_device(arrays, views) if kind == "arrays" else of_files
    model = small_model(views)
    for made, crops in zip(host.take(2), device, strict=False):
        assert crops[0]["images"].dtype == tf.uint8
        assert crops[0]["images"].shape == (12, 32, 32, 3)
        assert not np.array_equal(crops[0]["images"], crops[1]["images"])
        for ours, theirs in zip(made, model.two_views(crops), strict=True):
            assert np.std(ours) > 0.3
            np.testing.assert_allclose(theirs, ours, atol=0.01 * LEVEL)


@pytest.mark.slow
def test_crops_and_draws_are_a_function_of_the_step(arrays):
    layers = [augmentations.RandomResizedCrop(32), augmentations.RandomColorJitter(brightness=0.4)]
    views = [augmentations.View(layers)] * 2

    def batches(take, **kwargs):
        data = pretraining_views(arrays, *views, 8, 3, augment_on="device", **kwargs)
        return [tf.nest.map_structure(np.asarray, batch) for batch in data.take(take)]

    whole = batches(5)
    shards = [batches(4, first_step=1, shard_index=shard, num_shards=2) for shard in range(2)]
    for expected, *parts in zip(whole[1:], *shards, strict=True):
        together = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *parts)
        tf.nest.map_structure(np.testing.assert_array_equal, expected, together)
    every = [crops["draws"]["1_color_jitter"]["brightness"] for crops, _ in whole]
    assert len(np.unique(every)) == np.size(every)


@pytest.mark.slow
def test_replicas_make_the_views_of_the_whole_batch():
    # All images are alike: what differs, differs by the draws.
    source = ArraySource(np.tile(np.uint8([150, 100, 50]), (64, 32, 32, 1)))
    layers = [augmentations.RandomColorJitter(brightness=0.5)]
    views = [augmentations.View(layers)] * 2
    data = pretraining_views(source, *views, 16, seed=3, augment_on="device")
    host = [np.stack(batch) for batch in pretraining_views(source, *views, 16, seed=3).take(3)]
    strategy = choose_strategy("mirrored")
    with strategy.scope():
        model = small_model(views)

    def draws():
        per_replica = []
        step = tf.function(lambda batch: strategy.run(model.two_views, (batch,)))
        for batch, _ in zip(strategy.experimental_distribute_dataset(data), range(3), strict=False):
            for view in step(batch):
                per_replica += strategy.experimental_local_results(view)
        assert [len(values) for values in per_replica] == [8] * 12
        return np.concatenate(per_replica)[:, 0, 0, 0]

    made = draws()
    assert len(np.unique(made)) == len(made) == 2 * 16 * 3
    np.testing.assert_array_equal(made, np.concatenate(host).reshape(-1, 32, 32, 3)[:, 0, 0, 0])


@pytest.mark.slow
def test_views_keep_their_precision(of_files):
    _, data = of_files
    batch = next(iter(data))
    expected = small_model(few_layers()).two_views(batch)
    try:
        for policy in ("mixed_bfloat16", "mixed_float16"):
            keras.config.set_dtype_policy(policy)
            model = small_model(few_layers())
            model.compile(LARS(0.2))
            for ours, theirs in zip(model.two_views(batch), expected, strict=True):
                assert ours.dtype == tf.float32
                np.testing.assert_array_equal(ours, theirs)
        assert np.isfinite(losses(model, data)).all()
    finally:
        keras.config.set_dtype_policy("float32")


def evaluated_and_trained(data, folder, **options):
    """A model that makes its own views, with its results before and in training."""
    model = small_model(few_layers())
    model.compile(LARS(0.2), **options)
    results = model.evaluate(data, steps=2, verbose=0, return_dict=True)
    return model, results, losses(model, data, [RunCheckpoint(folder, model, steps_per_epoch=1)])


@pytest.fixture(scope="module")
def trained(of_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return *evaluated_and_trained(of_files[1], folder), folder


@pytest.mark.slow
def test_training_and_evaluation_make_the_views_and_plain_pairs_stay_as_they_are(
    of_files, trained, tmp_path
):
    _, results, found, _ = trained
    _, plain, expected = evaluated_and_trained(of_files[0], tmp_path, run_eagerly=True)
    assert plain["loss"] > 0
    assert results == pytest.approx(plain, rel=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.slow
def test_saving_and_checkpoints_leave_the_views_out(of_files, trained, tmp_path):
    _, data = of_files
    model, *_, folder = trained
    restored = small_model(few_layers())
    restored.compile(LARS(0.2))
    assert RunCheckpoint(folder, restored, steps_per_epoch=1).restore() == 4
    for ours, theirs in zip(model.weights, restored.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"must know the rest of the views.*views=None"):
        loaded.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
    loaded.views = model.views
    np.testing.assert_allclose(losses(loaded, data), losses(model, data), rtol=1e-5)


def test_impossible_placements_are_refused(arrays):
    views = augmentations.barlow_twins_views(32)
    with pytest.raises(ValueError, match=r"one of host, device\. Received: 'gpu'"):
        pretraining_views(arrays, *views, 8, seed=1, augment_on="gpu")
    foreign = augmentations.View([*views[0].layers, tf.abs])
    with pytest.raises(ValueError, match="layers of another package"):
        pretraining_views(arrays, views[0], foreign, 8, seed=1, augment_on="device")
    model = small_model()
    for wrong in (views[:1], (1, 2)):
        with pytest.raises(ValueError, match="two views"):
            BarlowTwins(model.backbone, model.projector, views=wrong)


@pytest.mark.slow
def test_the_command_trains_on_the_device(tmp_path, monkeypatch):
    places, views = [], run.data.pretraining_views

    def spy(*arguments, **options):
        places.append(options["augment_on"])
        return views(*arguments, **options)

    monkeypatch.setattr(run.data, "pretraining_views", spy)
    flags = ["--augment_on=device", "--noevaluate", f"--workdir={tmp_path / 'run'}"]
    flags += ["--epochs=1", "--projector=16-16", "--batch_size=256", "--nodeterministic"]
    flags += ["--monitor_every=0", *small_network.PLAIN_VIEWS]
    script.call("pretrain", *flags, small_network.save(tmp_path / "small.keras"))
    assert set(places) == {"device"}
    assert np.isfinite([m["loss"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl")]).all()
    assert (tmp_path / "run" / "plots" / "views.png").stat().st_size > 10_000
