"""All images of a source with their features: which, in what order, and as which pictures."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_bt import data
from keras_bt.evaluation.features import extract_features
from keras_bt.evaluation.whitening import Whitening
from trainers.runs import collection
from trainers.runs.collection_settings import CollectionSettings

SIZES = {"train/a/x.png": (40, 20), "train/a/y.jpg": (9, 30), "train/b/z.png": (8, 8)}
SIZES |= {"test/b/x.png": (12, 8), "test/a/\n'é.png": (8, 12)}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A file with a random projection of 8 × 8 pixels."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "tiny.keras"
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(12)]
    keras.Sequential(layers).save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Training and test images of several sizes; one is turned, and one of each part is damaged."""
    random = np.random.RandomState(0)
    for name, (width, height) in SIZES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if name.endswith(".jpg") else 1
        pixels = random.randint(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path, exif=exif)
    for name in ("train/a/w.png", "test/a/!.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n no image")
    return tmp_path


@pytest.mark.slow
def test_all_images_of_all_parts_that_can_be_read(backbone, folder, capsys):
    settings = CollectionSettings(backbone=backbone, data=f"folder:{folder}", image_size=8)
    found = collection.read(settings)
    names = ["train/a/x.png", "train/a/y.jpg", "train/b/z.png", "test/a/\n'é.png", "test/b/x.png"]
    assert found.names == [f"{folder}/{name}" for name in names]
    assert found.splits == ["train"] * 3 + ["test"] * 2
    assert found.labels.tolist() == [0, 0, 1, 0, 1]
    assert found.class_names == ("a", "b")
    assert capsys.readouterr().out.count("could not be read: left out") == 2

    sources = data.open_source(settings.data)
    model = keras.models.load_model(backbone)
    parts = [extract_features(model, data.evaluation_batches(s, 8, 3))[0] for s in sources]
    np.testing.assert_allclose(found.features, np.concatenate(parts), rtol=1e-5, atol=1e-5)
    expected = Whitening.fit(parts[0])(np.concatenate(parts))
    np.testing.assert_allclose(found.whitened(), expected, rtol=1e-3, atol=1e-3)

    pictures = found.images([4, 1, 0, 4], 16)
    assert [p.shape for p in pictures] == [(8, 12, 3), (5, 16, 3), (8, 16, 3), (8, 12, 3)]
    np.testing.assert_array_equal(pictures[0], Image.open(folder / "test/b/x.png"))
    upright = np.asarray(
        Image.open(folder / "train/a/y.jpg").transpose(Image.ROTATE_270).convert("RGB")
    )
    np.testing.assert_array_equal(found.images([1], 30)[0], upright)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pictures_of_other_channels(channels, backbone, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (6, 8, 8, channels), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    if channels != 1:
        layers = [keras.Input((8, 8, channels)), keras.layers.Flatten(), keras.layers.Dense(4)]
        keras.Sequential(layers).save(backbone := str(tmp_path / "own.keras"))
    found = collection.read(
        CollectionSettings(
            backbone=backbone,
            data=f"npz:{tmp_path}/images.npz",
            image_size=8,
            normalize="imagenet" if channels == 1 else "none",
        )
    )
    assert (found.labels, found.class_names, found.names) == (None, None, list("012345"))
    (picture,) = found.images([2], 100)
    shown = images[2][..., :3] if channels > 3 else np.repeat(images[2][..., :1], 3, -1)
    np.testing.assert_array_equal(picture, shown)
