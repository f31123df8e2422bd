"""The neighbors of image files are those of an exact search in float64."""

import keras
import numpy as np
import pytest
import script
import small_collection
from PIL import Image

from keras_bt import data
from keras_bt.evaluation.features import extract_features
from keras_bt.evaluation.whitening import Whitening


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return small_collection.write_backbone(tmp_path_factory.mktemp("backbone") / "tiny.keras")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = small_collection.write_folder(folder)
    (folder / "cache").mkdir()
    return folder, paths


def features_of(backbone, folder):
    """Features of the training and of the test images, float64."""
    model = keras.models.load_model(backbone)
    sources = data.open_source(f"folder:{folder}")
    batches = (data.evaluation_batches(source, 8, 256, 9) for source in sources)
    return [extract_features(model, part)[0].astype(np.float64) for part in batches]


def tables(output):
    """Rank, similarity, part and path of each line, of each query."""
    _, *queries = output.split("Query: ")
    lines = [[line.split(maxsplit=3) for line in query.splitlines()] for query in queries]
    return [[line for line in query if line and line[0].isdecimal()] for query in lines]


@pytest.mark.slow
@pytest.mark.parametrize("whiten", [True, False])
def test_neighbors_are_those_of_float64(backbone, images, tmp_path, capsys, whiten):
    folder, paths = images
    outside = tmp_path / "großes $bild$.bmp"  # of another size and format
    pixels = np.random.RandomState(1).randint(0, 256, (50, 33, 4), np.uint8)
    Image.fromarray(pixels[..., :3]).save(outside)
    transparent = tmp_path / "transparent.png"
    Image.fromarray(pixels).save(transparent)
    queries = [outside, transparent, paths[4]]
    out = tmp_path / "new" / "picture.png"
    script.call(
        *("search", f"--backbone={backbone}", f"--data=folder:{folder}", "--image_size=8"),
        *("--resize=9", f"--cache_dir={folder}/cache", "--k=4"),
        *(f"--query={query}" for query in queries),
        *([f"--out={out}"] if whiten else ["--nowhiten"]),
    )
    output = capsys.readouterr().out
    assert output.count("It is one of the images, and left out.") == 1
    found = tables(output)

    train, test = features_of(backbone, folder)
    model = keras.models.load_model(backbone)
    own = np.concatenate([train, test])
    shown = []
    for path in queries:
        with Image.open(path) as opened:
            image = np.array(opened.convert("RGBA"), np.float64)
        shown.append(image)
        alpha = image[..., 3:] / 255
        image[..., :3] = np.round(alpha * image[..., :3] + (1 - alpha) * 255)
    asked = [data.center_crop(image[..., :3].astype(np.uint8), 8, 9) for image in shown]
    asked = np.concatenate([model(data.normalize(image)[None]) for image in asked])
    if whiten:
        whitening = Whitening.fit(train)
        own, asked = whitening(own), whitening(asked)
    own, asked = (v.astype(np.float64) for v in (own, asked))
    similar = asked @ own.T
    similar /= np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(own, axis=1)
    similar[2, 4] = -2  # itself
    parts = ["train"] * 5 + ["test"] * 2
    for row, lines in zip(similar, found, strict=True):
        order = np.argsort(-row, kind="stable")[:4]
        assert [int(line[0]) for line in lines] == [1, 2, 3, 4]
        np.testing.assert_allclose([float(line[1]) for line in lines], row[order], atol=0.002)
        assert [line[2] for line in lines] == [parts[number] for number in order]
        escaped = [paths[number].replace("\n", "\\n").replace("\r", "\\r") for number in order]
        assert [line[3] for line in lines] == escaped
    assert found[2][0][1:3] == ["1.000", "test"]  # its copy, another file
    if whiten:
        with Image.open(out) as picture:
            assert picture.width > 500
        assert [path.name for path in out.parent.iterdir()] == [out.name]


MISTAKES = {
    "--query is needed": ["--query="],
    "--query must be an image file that can be read. Received: text.png": ["--query=text.png"],
    "Received: nowhere.png (No such file or directory)": ["--query=nowhere.png"],
    "--k must be at most the number of images. Received: --k=1798": ["--k=1798"],
    "--out must end in .png. Received: --out=f.jpg": ["--out=f.jpg"],
    "Received: text.png/f.png, below the file": ["--out=text.png/f.png"],
    "--backbone must be the folder of a run or a .keras file": ["--backbone=empty"],
    "must hold files ending in": ["--data=folder:empty"],
    "images have 5": ["--data=npz:small.npz", "--backbone=five.keras", "--normalize=none"],
}


def test_mistakes(backbone, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (9, 9)).save("query.png")
    np.savez("small.npz", images=np.zeros((30, 8, 8, 5), np.uint8))
    small_collection.write_backbone(tmp_path / "five.keras", channels=5)
    before = sorted(tmp_path.iterdir())
    for message, flags in MISTAKES.items():
        given = [f"--backbone={backbone}", "--data=digits", "--image_size=8", *flags]
        query = [] if "--query" in flags[0] else ["--query=query.png"]
        given = [flag for flag in given if flag != "--query="]
        assert message in script.mistake(capsys, "search", *given, *query)
    assert sorted(tmp_path.iterdir()) == before
