"""Files of features, as other programs read them."""

import csv
from unittest import mock

import keras
import numpy as np
import pytest
import script
import small_collection
from pyarrow import parquet

from keras_bt import data
from keras_bt.evaluation.features import extract_features
from keras_bt.evaluation.whitening import Whitening


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return small_collection.write_backbone(tmp_path_factory.mktemp("backbone") / "tiny.keras")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return folder, small_collection.write_folder(folder)


@pytest.fixture(scope="module")
def expected(backbone, images):
    """The features of the images that can be read, by the library."""
    model, features = keras.models.load_model(backbone), []
    for source in data.open_source(f"folder:{images[0]}"):
        features.append(extract_features(model, data.evaluation_batches(source, 8, 256))[0])
    return features


def write(backbone, spec, out, *flags):
    script.call(
        "features",
        f"--backbone={backbone}",
        f"--data={spec}",
        "--image_size=8",
        f"--out={out}",
        *flags,
    )


def from_npz(path):
    with np.load(path) as file:
        found = {name: file[name] for name in file}
    labels = found.get("labels", np.full(len(found["names"]), -1))
    classes = [found["class_names"][label] if label >= 0 else None for label in labels]
    return found["features"], found["names"].tolist(), found["splits"].tolist(), classes


def from_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    width = sum(name.startswith("feature_") for name in rows[0])
    features = [[float(row[f"feature_{n}"]) for n in range(width)] for row in rows]
    classes = [row.get("label") or None for row in rows]
    features = np.array(features).astype(np.float32)
    return features, [row["path"] for row in rows], [row["split"] for row in rows], classes


def from_parquet(path):
    table = parquet.read_table(path).to_pydict()
    classes = table.get("label", [None] * len(table["path"]))
    return np.array(table["features"], np.float32), table["path"], table["split"], classes


READERS = {".npz": from_npz, ".csv": from_csv, ".parquet": from_parquet}


@pytest.mark.slow
@pytest.mark.parametrize("ending", READERS)
def test_files_hold_all_images_that_can_be_read(
    ending, backbone, images, expected, tmp_path, capsys
):
    out = tmp_path / "new" / f"features{ending.upper()}"
    write(backbone, f"folder:{images[0]}", out)
    features, names, splits, classes = READERS[ending](out)
    np.testing.assert_allclose(features, np.concatenate(expected), rtol=1e-5, atol=1e-5)
    assert names == images[1]
    assert splits == ["train"] * 5 + ["test"] * 2
    assert classes == [name.split("/")[-2] for name in images[1]]
    assert "1 of the 6 training images could not be read" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.slow
def test_whitened_by_the_training_images(backbone, images, expected, tmp_path):
    write(backbone, f"folder:{images[0]}", tmp_path / "features.npz", "--whiten")
    whitened = Whitening.fit(expected[0])(np.concatenate(expected))
    found = from_npz(tmp_path / "features.npz")[0]
    np.testing.assert_allclose(np.abs(found), np.abs(whitened), rtol=1e-3, atol=1e-3)


def test_without_labels_and_with_several(backbone, tmp_path):
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    for ending, read in READERS.items():
        write(backbone, f"npz:{tmp_path}/images.npz", tmp_path / f"f{ending}")
        assert read(tmp_path / f"f{ending}")[1:] == (list("012"), ["train"] * 3, [None] * 3)

    several = data.ArraySource(pixels, [[1, 0], [1, 1], [0, -1]], ["x", "y"])
    for ending in READERS:
        with mock.patch.object(data, "open_source", return_value=(several, None)):
            write(backbone, "digits", tmp_path / f"several{ending}")
    with np.load(tmp_path / "several.npz") as file:
        np.testing.assert_array_equal(file["labels"], several.labels())
    table = parquet.read_table(tmp_path / "several.parquet").to_pydict()
    assert table["label"] == [["x"], ["x", "y"], []]
    with open(tmp_path / "several.csv", newline="") as file:
        rows = [[row["label x"], row["label y"]] for row in csv.DictReader(file)]
    assert rows == [["1", "0"], ["1", "1"], ["0", ""]]


MISTAKES = {
    "--out must end in .npz, .csv or .parquet. Received: --out=f.txt": ["--out=f.txt"],
    "Received: small.npz/f.csv, below the file": ["--out=small.npz/f.csv"],
    "--backbone must be the folder of a run or a .keras file": ["--backbone=empty"],
    "must hold files ending in": ["--data=folder:empty"],
    "backbone must take images of 8×8×5": ["--data=npz:small.npz"],
}


def test_mistakes(backbone, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "small.npz", images=np.zeros((3, 8, 8, 5), np.uint8))
    monkeypatch.chdir(tmp_path)
    for message, flags in MISTAKES.items():
        given = [f"--backbone={backbone}", "--data=digits", "--image_size=8", "--out=f.npz", *flags]
        assert message in script.mistake(capsys, "features", *given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "small.npz"]
