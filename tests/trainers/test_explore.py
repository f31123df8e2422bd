"""The page of a folder: which images, in which file; what cannot be shown is one line."""

import base64
import json
import re

import numpy as np
import pytest
import script
import small_collection


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return small_collection.write_backbone(tmp_path_factory.mktemp("backbone") / "tiny.keras")


@pytest.fixture(scope="module")
def flags(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    small_collection.write_folder(folder)
    cache = f"--cache_dir={tmp_path_factory.mktemp('cache')}"
    return [f"--backbone={backbone}", f"--data=folder:{folder}", "--image_size=8", cache]


def contents(page):
    """The data of a page, its arrays as NumPy's."""

    def revive(value):
        if "$array" in value:
            return np.frombuffer(base64.b64decode(value["base64"]), value["$array"])
        return value

    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    data = re.search(r'id="page-data">(.*?)</script>', text, re.DOTALL)[1]
    return json.loads(data, object_hook=revive)


@pytest.mark.slow
def test_a_page_of_a_folder(flags, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    script.call("explore", *flags, f"--out={out}")
    assert f"Written to {out}" in capsys.readouterr().out
    found = contents(out)
    names = found["names"]
    assert len(names) == len(small_collection.NAMES)
    for name in small_collection.NAMES:
        assert any(shown.endswith(f"/{name}") for shown in names)
    assert found["splits"]["names"] == ["train", "test"]
    assert found["classes"]["names"] == ["a", "b"]
    copy, original = (
        next(i for i, name in enumerate(names) if name.endswith(end))
        for end in ("=copy.png", "train/b/文字 é.png")
    )
    nearest = found["neighbors"].reshape(len(names), -1)
    assert nearest[copy, 0] == original
    assert nearest[original, 0] == copy
    assert all(number not in row for number, row in enumerate(nearest))
    assert found["similarities"].max() == 100
    # Those to label are training images.
    assert sorted(found["first"]) == list(np.flatnonzero(found["splits"]["of"] == 0))
    np.testing.assert_array_equal(np.unique(found["clusters"]["of"]), [0, 1])
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.slow
def test_of_many_images_some_are_drawn(flags, tmp_path, capsys):
    out = tmp_path / "page.html"
    script.call("explore", *flags, f"--out={out}", "--images=4", "--map=pca", "--label_first=1")
    assert "Shown: 4 of 7 images, drawn at random" in capsys.readouterr().out
    found = contents(out)
    assert len(found["names"]) == len(found["x"]) == 4
    assert len(found["first"]) == 1
    assert found["neighbors"].size == 4 * 3


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (["--clusters=8"], "Received: --clusters=8 for 7 images."),
        (["--out=."], "--out must end in .html"),
        (["--out=/dev/null/page.html"], "--out must be a file that can be written to"),
        (["--data=folder:nothing"], "nothing"),
    ],
)
def test_what_cannot_be_shown_is_one_line(more, rule, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert rule in script.mistake(capsys, "explore", *flags, *more)
    assert not list(tmp_path.iterdir())
