import os

import pytest
from PIL import Image

from keras_bt.data.decoding import DataError
from keras_bt.data.folders import open_folder


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image_format = "PNG" if path.endswith(".txt") else None
        Image.new("RGB", (4, 3)).save(root / path, image_format)


def contents(source):
    """Pairs of path relative to the folder and class, in the order of the source."""
    paths = [os.path.relpath(path, source.root) for path in source.paths]
    if source.class_names is None:
        return paths
    return [
        (path, source.class_names[label])
        for path, label in zip(paths, source.labels(), strict=True)
    ]


@pytest.mark.parametrize(
    ("paths", "expected", "part", "test"),
    [
        (
            "train/b/2.jpg train/a/1.png train/b/1.gif test/b/9.bmp",
            "a/1.png b/1.gif b/2.jpg",
            "test",
            "b/9.bmp",
        ),
        # Validation images stand in for a test set without labels.
        ("train/a/1.png train/b/1.png val/a/1.png test/1.png", "a/1.png b/1.png", "val", "a/1.png"),
        ("train/a/1.png", "a/1.png", None, None),  # one class is a class below train
        ("b/deep/1.png b/2.png a/1.png c/none.txt", "a/1.png b/2.png b/deep/1.png", None, None),
    ],
)
def test_a_folder_per_class(tmp_path, paths, expected, part, test):
    make(tmp_path, *paths.split())
    train, found = open_folder(str(tmp_path), "folder:d")
    assert contents(train) == [(path, path[0]) for path in expected.split()]
    assert train.name == ("folder:d/train" if paths.startswith("train") else "folder:d")
    if part is None:
        assert found is None
    else:
        assert contents(found) == [(test, test[0])]
        assert found.class_names == train.class_names
        assert found.name == f"folder:d/{part}"


@pytest.mark.parametrize(
    "paths",
    [
        ["2.png", "10.png", "1.png"],
        ["b/1.png", "a/1.png", "c.png"],  # images beside the folders
        ["all/of/a/1.png", "all/of/b/1.png"],  # a single folder
        ["train/2.png", "train/1.png", "test/a/1.png", "test/b/1.png"],
    ],
)
def test_folders_without_labels(tmp_path, paths):
    make(tmp_path, *paths)
    train, test = open_folder(str(tmp_path), "folder:d")
    expected = sorted(path.removeprefix("train/") for path in paths if not path.startswith("test"))
    assert contents(train) == expected
    assert train.class_names is None
    assert test is None


def test_what_counts_as_an_image(tmp_path):
    make(tmp_path, "1.JPG", "2.jpeg", "3.PnG", "4.GIF", "5.bmp", "6.WebP", "größe 日本.png")
    make(tmp_path, ".hidden.png", ".hidden/1.png", "notes.txt")
    os.mkfifo(tmp_path / "pipe.png")
    train, _ = open_folder(str(tmp_path), "folder:d")
    expected = ["1.JPG", "2.jpeg", "3.PnG", "4.GIF", "5.bmp", "6.WebP", "größe 日本.png"]
    assert contents(train) == expected


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "data/a/1.png", "data/b/1.png", "elsewhere/2.png", "far.png")
    (tmp_path / "data/a/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/circle").symlink_to(tmp_path / "data")
    (tmp_path / "data/b/far.png").symlink_to(tmp_path / "far.png")
    (tmp_path / "data/b/nowhere.png").symlink_to(tmp_path / "nothing")
    train, _ = open_folder(str(tmp_path / "data"), "folder:d")
    assert contents(train) == [
        ("a/1.png", "a"),
        ("a/linked/2.png", "a"),
        ("b/1.png", "b"),
        ("b/far.png", "b"),
        ("b/nowhere.png", "b"),
    ]


def test_a_class_of_the_test_set_must_be_known(tmp_path):
    make(tmp_path, "train/a/1.png", "train/b/1.png", "test/c/1.png")
    with pytest.raises(DataError, match="Received: c in folder:d/test, which is not one of them"):
        open_folder(str(tmp_path), "folder:d")


@pytest.mark.parametrize("paths", [[], ["a/notes.txt"], ["train/.hidden.png"]])
def test_a_folder_without_images_is_refused(tmp_path, paths):
    make(tmp_path, *paths)
    with pytest.raises(DataError, match=r"must hold files ending in \.jpg, .*, which has none\.$"):
        open_folder(str(tmp_path), "folder:d")


def test_what_is_no_folder_is_refused(tmp_path):
    make(tmp_path, "image.png")
    for path, reason in (("missing", "No such file"), ("image.png", "Not a directory")):
        with pytest.raises(DataError, match=f"a folder that can be read.*{path}.*{reason}"):
            open_folder(str(tmp_path / path), "folder:d")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b").chmod(0)
    with pytest.raises(DataError, match=r"b \(Permission denied\)"):
        open_folder(str(tmp_path), "folder:d")
