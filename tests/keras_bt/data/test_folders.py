"""Layouts of folders: what is read, what is said, and what is refused."""

import inspect
import os
import sys
import unicodedata

import pytest
from PIL import Image

from keras_bt.data.decoding import DataError
from keras_bt.data.file_sets import split_of
from keras_bt.data.file_tree import read_tree
from keras_bt.data.folders import open_folder
from keras_bt.data.specs import open_source


def make(root, paths):
    """Makes files, images unless they are .txt or .heic; a path that ends in / is a folder."""
    for path in paths.split():
        if path.endswith("/"):
            (root / path).mkdir(parents=True, exist_ok=True)
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.lower().endswith((".txt", ".heic")):
            (root / path).write_text("no image that is read")
        else:
            Image.new("RGB", (4, 3)).save(root / path, None if "." in path else "PNG")


def contents(source, base):
    """The paths below `base`, each with its class in brackets, in the order of the source."""
    if source is None:
        return None
    paths = [os.path.relpath(path, base) for path in source.paths]
    if source.class_names is None:
        return " ".join(paths)
    classes = [source.class_names[label] for label in source.labels()]
    return " ".join(f"{path}[{name}]" for path, name in zip(paths, classes, strict=True))


def said(*sources):
    return " | ".join(line for source in sources if source is not None for line in source.remarks)


READ = {
    "test beside train": (
        "train/b/2.jpg train/a/1.png train/b/1.gif test/b/9.bmp test/a/1.png",
        "train/a/1.png[a] train/b/1.gif[b] train/b/2.jpg[b]",
        "test/a/1.png[a] test/b/9.bmp[b]",
        "",
    ),
    "val where there is no test": (
        "train/a/1.png train/b/1.png val/a/1.png val/b/1.png",
        "train/a/1.png[a] train/b/1.png[b]",
        "val/a/1.png[a] val/b/1.png[b]",
        "val serves as the test set.",
    ),
    "val where test has no labels": (
        "train/a/1.png train/b/1.png valid/a/1.png test/1.png test/2.png",
        "train/a/1.png[a] train/b/1.png[b]",
        "valid/a/1.png[a]",
        "test (2 images) is not used, as its images have no labels. | valid serves as the test set."
        " | 1 of 2 classes has no test images: b.",
    ),
    "val beside test": (
        "train/a/1.png validation/a/1.png test/a/1.png",
        "train/a/1.png[a]",
        "test/a/1.png[a]",
        "validation (1 image) is not used, as there is a test set.",
    ),
    "capitals": ("Train/a/1.png Test/a/1.png", "Train/a/1.png[a]", "Test/a/1.png[a]", ""),
    "words in names": (
        "training_set/a/1.png test-set/a/1.png",
        "training_set/a/1.png[a]",
        "test-set/a/1.png[a]",
        "",
    ),
    "years and camels": (
        "train2017/a/1.png TestImages/a/1.png",
        "train2017/a/1.png[a]",
        "TestImages/a/1.png[a]",
        "",
    ),
    "evaluation": (
        "training/a/1.png evaluation/a/2.png validation/a/3.png",
        "training/a/1.png[a]",
        "evaluation/a/2.png[a]",
        "validation (1 image) is not used, as there is a test set.",
    ),
    "the same name twice": (
        "seg_train/seg_train/a/1.png seg_train/seg_train/b/1.png seg_test/seg_test/a/1.png "
        "seg_test/seg_test/b/1.png seg_pred/",
        "seg_train/seg_train/a/1.png[a] seg_train/seg_train/b/1.png[b]",
        "seg_test/seg_test/a/1.png[a] seg_test/seg_test/b/1.png[b]",
        "seg_pred is not used, as it holds no images.",
    ),
    "one folder around parts": (
        "animals/train/a/1.png animals/test/a/1.png __MACOSX/animals/train/a/._1.png .DS_Store/",
        "animals/train/a/1.png[a]",
        "animals/test/a/1.png[a]",
        "",
    ),
    "folders around classes": (
        "x/y/b/1.png x/y/a/1.png",
        "x/y/a/1.png[a] x/y/b/1.png[b]",
        None,
        "",
    ),
    "classes": (
        "b/deep/1.png b/2.png a/1.png b/deep/0.png",
        "a/1.png[a] b/2.png[b] b/deep/0.png[b] b/deep/1.png[b]",
        None,
        "",
    ),
    "one class below train": ("train/a/1.png", "train/a/1.png[a]", None, ""),
    "classes named like parts, below train": (
        "train/bus/1.png train/train/1.png train/test_tube/1.png",
        "train/bus/1.png[bus] train/test_tube/1.png[test_tube] train/train/1.png[train]",
        None,
        "",
    ),
    "an empty class": (
        "a/1.png b/1.png c/ d/e/",
        "a/1.png[a] b/1.png[b]",
        None,
        "c is no class, as it is empty. | d is no class, as it is empty.",
    ),
    "classes that differ in case": (
        "Cats/1.png cats/1.png dogs/1.png",
        "Cats/1.png[Cats] cats/1.png[cats] dogs/1.png[dogs]",
        None,
        "Different classes, though they differ only in case or accents: Cats and cats.",
    ),
    "flat": ("2.png 10.png 1.png", "1.png 10.png 2.png", None, ""),
    "flat in one folder": ("cats/1.png", "cats/1.png", None, ""),
    "pictures and a table": (
        "images/1.png labels.txt",
        "images/1.png",
        None,
        "1 file was left out: 1 .txt.",
    ),
    "flat with notes in a folder": (
        "1.png notes/a.txt notes/b.heic",
        "1.png",
        None,
        "2 files were left out: 1 .heic, 1 .txt.",
    ),
    "train without labels": (
        "train/2.png train/1.png test/a/1.png test/b/1.png",
        "train/1.png train/2.png",
        None,
        "test (2 images) is not used, as the training images have no labels.",
    ),
    "unlabeled beside train": (
        "train/a/1.png test/a/1.png unlabeled/1.png unlabeled/x/2.png",
        "train/a/1.png[a]",
        "test/a/1.png[a]",
        "unlabeled (2 images) is not used, as train is there.",
    ),
    "unlabeled alone, of any depth": (
        "Unlabelled_images/1.png Unlabelled_images/x/2.png Unlabelled_images/x/y/3.png",
        "Unlabelled_images/1.png Unlabelled_images/x/2.png Unlabelled_images/x/y/3.png",
        None,
        "",
    ),
    "files left out of each part": (
        "train/a/1.png train/a/1.heic train/a/2.heic train/a/1.txt test/a/1.png test/a/2.heic "
        "val/a/1.png val/a/2.txt notes.txt",
        "train/a/1.png[a]",
        "test/a/1.png[a]",
        "4 files were left out: 2 .heic, 2 .txt. | val (1 image) is not used, as there is a test "
        "set. | 1 file was left out: 1 .heic.",
    ),
    "a test set that cannot be read": (
        "train/a/1.png test/a/1.heic",
        "train/a/1.png[a]",
        None,
        "1 file was left out: 1 .heic. | test is not used, as it holds no images.",
    ),
}


@pytest.mark.parametrize("layout", READ)
def test_what_is_read_and_said(tmp_path, layout):
    paths, expected, expected_test, remarks = READ[layout]
    make(tmp_path, paths)
    train, test = open_folder(str(tmp_path), "folder:d")
    assert contents(train, tmp_path) == expected
    assert contents(test, tmp_path) == expected_test
    assert said(train, test) == remarks
    if test is not None:
        assert test.class_names == train.class_names


BESIDE = "Images must not lie beside"
MIXED = "move all of them into {dir}/train/"
NONE = r"must hold files ending in \.jpg, "
REFUSED = {
    "parts beside a class": ("train/a/1.png cats/1.png", MIXED, "train beside cats in {dir}"),
    "a class named like a part": ("bus/1.png car/1.png train/1.png", MIXED, "beside bus, car in"),
    "parts beside images without a part": (
        "seg_train/a/1.png seg_test/a/1.png seg_pred/1.png",
        "others: move or remove those, or, if all are classes, move all",
        "seg_test, seg_train beside seg_pred in {dir}",
    ),
    "a class with such a word": ("flask/1.png test_tube/1.png", MIXED, "test_tube beside flask"),
    "classes that are no parts": (
        "test_positive/1.png test_negative/1.png",
        "if they are classes, move them into {dir}/train/",
        "test_negative and test_positive",
    ),
    "two training sets": ("train/a/1.png training/a/1.png", "one folder of train", "train and tra"),
    "one picture beside classes": (
        "a/1.png b/1.png sheet.png",
        f"{BESIDE} folders of images: .*move all into DIR/unlabeled/",
        r"1 image \(sheet.png\) beside a, b in {dir}\.$",
    ),
    "pictures beside one folder": ("a/1.png 1.png", BESIDE, "beside a in {dir}"),
    "pictures beside classes below train": (
        "train/a/1.png train/1.png train/2.png train/3.png train/4.png",
        BESIDE,
        r"4 images \(1.png, 2.png, 3.png, …\) beside a in {dir}/train",
    ),
    "pictures beside parts": (
        "train/a/1.png test/a/1.png x.png",
        f"{BESIDE} the folders of parts",
        r"1 image \(x.png\) beside test, train in {dir}",
    ),
    "no training set": (
        "test/a/1.png test/b/1.png val/a/1.png",
        "to train on test, give folder:{dir}/test",
        "{dir}, which has only test, val",
    ),
    "a training set that cannot be read": ("train/a/1.heic test/a/1.png", NONE, r"1 \.heic"),
    "a class that cannot be read": (
        "cats/1.png dogs/1.heic dogs/2.heic birds/1.png",
        "must hold images as well: move or remove it",
        r"{dir}/dogs, which has none \(2 \.heic\)",
    ),
    "one of two classes that cannot be read": (
        "cats/1.png dogs/1.heic",
        "give the one that does, folder:{dir}/cats",
        r"{dir}/dogs, which has none \(1 \.heic\)",
    ),
    "the same below test": ("train/a/1.png train/b/1.png test/a/1.png test/b/1.txt", "", "test/b"),
    "parts below classes": (
        "a/train/1.png a/test/1.png b/train/1.png b/test/1.png b/truth/1.png",
        "must lie above those of classes, DIR/train/CLASS",
        "test, train in {dir}/a",
    ),
    "parts inside a part": ("training_data/train/1.png training_data/test/1.png", "above", "train"),
    "an unknown class": (
        "train/a/1.png train/b/1.png test/c/1.png",
        "must have the classes of the training set",
        r"c in folder:d/test, which is not one of them\.$",
    ),
    "a class in other case": (
        "train/cats/1.png test/Cats/1.png",
        "must have the classes",
        "Cats in folder:d/test, .*; the training set has cats",
    ),
    "a class with an accent of another encoding": (
        f"train/{unicodedata.normalize('NFC', 'größe')}/1.png "
        f"test/{unicodedata.normalize('NFD', 'größe')}/1.png",
        "must have the classes",
        "; the training set has größe",
    ),
    "nothing": ("", NONE, r"{dir}, which has none\.$"),
    "no images": ("a/notes.txt b/1.txt", NONE, r"{dir}, which has none \(2 \.txt\)"),
    "only what is hidden": ("train/.hidden.png", NONE, "has none"),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_what_is_refused_in_one_line(tmp_path, layout):
    paths, rule, received = (text.replace("{dir}", str(tmp_path)) for text in REFUSED[layout])
    make(tmp_path, paths)
    with pytest.raises(DataError, match=f"{rule}.*Received: .*{received}") as error:
        open_folder(str(tmp_path), "folder:d")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Train TRAINING training_set seg_train train2017 TrainImages trainset", "train"),
        ("test Testing test1 test_set TestSet eval evaluation test_tube", "test"),
        ("val valid Validation val2017", "val"),
        ("unlabeled Unlabelled train_unlabeled unlabeled_images", "unlabeled"),
        ("trains tested valley invalid trainer testament train_test größe 12 _", None),
    ],
)
def test_words_that_name_a_part(names, split):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_what_counts_as_an_image(tmp_path):
    names = "1.JPG 2.jpeg 3.PnG 4.GIF 5.bmp 6.WebP 7.tiff 8.jfif größe-日本.png nameless"
    make(tmp_path, f"{names} .hidden.png .hidden/1.png notes.txt a.heic b.HEIC Thumbs.db/1.png")
    (tmp_path / "Makefile").write_text("no image, and without extension")
    (tmp_path / "thumbs.DB").write_bytes(b"of Windows")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "1.png")  # reading it would hang
    train, _ = open_folder(str(tmp_path), "folder:d")
    assert contents(train, tmp_path) == names
    assert said(train) == "5 files were left out: 2 .heic, 1 (no extension), 1 (no file), 1 .txt."


def test_kinds_left_out_are_shown_up_to_five(tmp_path):
    make(tmp_path, "1.png")
    for kind in "abcdefg":
        (tmp_path / f"1.{kind}").write_text("")
    train, _ = open_folder(str(tmp_path), "folder:d")
    assert said(train) == "7 files were left out: 1 .a, 1 .b, 1 .c, 1 .d, 1 .e, …."


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "data/a/1.png data/b/1.png elsewhere/2.png far.png apart/3.png")
    link = {
        "data/a/linked": "elsewhere",
        "data/a/circle": "data",
        "data/a/above": "",
        "data/a/self": "data/a/self",
        "data/b/self.png": "data/b/self.png",
        "data/b/far.png": "far.png",
        "data/b/nowhere.png": "nothing",
        "data/b/nowhere": "nothing",
        "data/b/apart": "apart",
        "apart/again": "elsewhere",
        "elsewhere/round": "apart",  # apart → elsewhere → apart
    }
    for path, target in link.items():
        (tmp_path / path).symlink_to(tmp_path / target)
    train, _ = open_folder(str(tmp_path / "data"), "folder:d")
    expected = "a/1.png a/linked/2.png a/linked/round/3.png b/1.png b/apart/3.png "
    expected += "b/apart/again/2.png b/far.png b/nowhere.png b/self.png"
    paths = [os.path.relpath(path, tmp_path / "data") for path in train.paths]
    assert paths == expected.split()
    assert said(train) == "6 files were left out: 4 (link in a circle), 2 (broken link)."


def test_folders_may_be_nested_deeper_than_functions(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(deep / "1.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        train, _ = open_folder(str(tmp_path), "folder:d")
    finally:
        sys.setrecursionlimit(limit)
    assert train.paths == (str(deep / "1.png"),)


def test_a_path_that_is_too_long_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(21):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    Image.new("RGB", (4, 3)).save("1.png")
    with pytest.raises(DataError, match=r"can be read\. Received: .{,300} \(File name too long"):
        open_folder(str(tmp_path), "folder:d")


def test_what_is_no_folder_is_refused(tmp_path):
    make(tmp_path, "image.png")
    for path, reason in (("missing", "No such file"), ("image.png", "Not a directory")):
        with pytest.raises(DataError, match=f"a folder that can be read.*{path}.*{reason}"):
            open_folder(str(tmp_path / path), "folder:d")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    make(tmp_path, "a/1.png b/1.png")
    (tmp_path / "b").chmod(0)
    with pytest.raises(DataError, match=r"b \(Permission denied\)"):
        open_folder(str(tmp_path), "folder:d")


def test_each_file_is_asked_for_nothing_but_its_name(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png a/2.txt b/1.png")
    for name in ("stat", "lstat", "open"):
        monkeypatch.setattr(os, name, lambda *_, **__: pytest.fail("slow for a million files"))
    assert read_tree(str(tmp_path)).num_images == 2


SEVERAL = {
    "classes are united by name": (
        "A/cats/1.png A/dogs/1.png B/birds/1.png B/cats/1.png",
        "A/cats/1.png[cats] A/dogs/1.png[dogs] B/birds/1.png[birds] B/cats/1.png[cats]",
        None,
        "",
    ),
    "parts are joined": (
        "A/train/a/1.png A/test/a/1.png B/train/b/1.png B/val/b/1.png B/x.txt",
        "A/train/a/1.png[a] B/train/b/1.png[b]",
        "A/test/a/1.png[a] B/val/b/1.png[b]",
        "{dir}/B/train: 1 file was left out: 1 .txt. | {dir}/B/train: val serves as the test set.",
    ),
    "a test set of one": (
        "A/train/a/1.png A/test/b/1.png B/a/1.png B/b/1.png",
        "A/train/a/1.png[a] B/a/1.png[a] B/b/1.png[b]",
        "A/test/b/1.png[b]",
        "1 of 2 classes has no test images: a.",
    ),
    "without labels": ("B/1.png A/2.png A/1.png", "A/1.png A/2.png B/1.png", None, ""),
    "with labels and without": (
        "A/train/a/1.png A/test/a/1.png B/1.png",
        "A/train/a/1.png B/1.png",
        None,
        "All images are used without labels, as {dir}/B has none and {dir}/A/train has them. | "
        "The test sets are not used, as not all training images have labels.",
    ),
    "nearly equal names": (
        "A/cats/1.png A/dogs/1.png B/Cats/1.png B/dogs/1.png",
        "A/cats/1.png[cats] A/dogs/1.png[dogs] B/Cats/1.png[Cats] B/dogs/1.png[dogs]",
        None,
        "Different classes, though they differ only in case or accents: Cats and cats.",
    ),
}


@pytest.mark.parametrize("layout", SEVERAL)
def test_several_folders(tmp_path, layout):
    paths, expected, expected_test, remarks = SEVERAL[layout]
    make(tmp_path, paths)
    spec = f"folder:{tmp_path / 'A'},{tmp_path / 'B'}"
    train, test = open_source(spec)
    assert train.name == spec
    assert contents(train, tmp_path) == expected
    assert contents(test, tmp_path) == expected_test
    assert said(train, test) == remarks.replace("{dir}", str(tmp_path))
    if train.class_names is not None:
        assert train.class_names == tuple(sorted(train.class_names))
    # The data's identity knows all of them.
    before = train.fingerprint()
    (tmp_path / "B").rename(tmp_path / "C")
    make(tmp_path, "B/1.png" if train.class_names is None else "B/a/1.png B/b/1.png")
    assert open_source(spec)[0].fingerprint() != before


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{dir}/A,{dir}/A", "none lies in another"),
        ("{dir}/A,{dir}/A/cats", "none lies in another.*A/cats and .*A"),
        ("{dir}/A,", "before and after each comma. Received: 'folder:.*A,'"),
        ("{dir}/A,{dir}/nowhere", r"can be read\. Received: .*nowhere \(No such"),
    ],
)
def test_several_folders_that_do_not_go_together(tmp_path, where, message):
    make(tmp_path, "A/cats/1.png A/dogs/1.png")
    with pytest.raises(DataError, match=message):
        open_source("folder:" + where.replace("{dir}", str(tmp_path)))


def test_the_name_of_a_folder_may_have_a_comma(tmp_path):
    make(tmp_path, "a,b/1.png a/2.png b/3.png")
    train, _ = open_source(f"folder:{tmp_path}/a,b")
    assert contents(train, tmp_path) == "a,b/1.png"


def test_what_was_left_out_is_known_of_held_out_images_too(tmp_path):
    make(tmp_path, "notes.txt " + " ".join(f"{number}.png" for number in range(12)))
    train, held_out = open_source(f"heldout:folder:{tmp_path}")
    assert (train.num_examples, held_out.num_examples) == (10, 2)
    assert said(train) == "1 file was left out: 1 .txt."
