"""Tables of image files: what is read, what is said, and what is refused."""

import os

import pytest
from PIL import Image

from keras_bt.data.decoding import DataError
from keras_bt.data.specs import open_source


@pytest.fixture
def opened(tmp_path):
    """Writes a table (lines separated by |) beside six images and opens it."""
    (tmp_path / "in").mkdir()
    for name in ("1.png", "2.png", "3.png", "4.png", "in/5.png", "in/a, b.png"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)

    def open_table(table, prefix=""):
        if isinstance(table, str):
            table = table.replace("|", "\n").replace("{dir}", str(tmp_path)).encode()
        (tmp_path / "t.csv").write_bytes(table)
        return open_source(f"{prefix}csv:{tmp_path / 't.csv'}")

    return open_table


def contents(source):
    if source is None:
        return None
    paths = [os.path.relpath(path, source.root) for path in source.paths]
    if source.class_names is None:
        return " ".join(paths)
    classes = [source.class_names[label] for label in source.labels()]
    return " ".join(f"{path}[{name}]" for path, name in zip(paths, classes, strict=True))


READ = {
    "paths alone": ("path|2.png|1.png", "2.png 1.png", None, ""),
    "labels": ("path,label|2.png,b|1.png,a", "2.png[b] 1.png[a]", None, ""),
    "parts": (
        "split,path,label|train,1.png,a|test,2.png,a|train,3.png,b|testing,4.png,b",
        "1.png[a] 3.png[b]",
        "2.png[a] 4.png[b]",
        "",
    ),
    "val in place of test": (
        "path,label,split|1.png,a,Training|2.png,a,valid",
        "1.png[a]",
        "2.png[a]",
        "valid serves as the test set.",
    ),
    "val beside test": (
        "path,label,split|1.png,a,train|2.png,b,train|3.png,a,val|4.png,b,test",
        "1.png[a] 2.png[b]",
        "4.png[b]",
        "val (1 image) is not used, as there is a test set. | "
        "1 of 2 classes has no test images: a.",
    ),
    "semicolons": ("path;label|1.png;a|in/a, b.png;b", "1.png[a] in/a, b.png[b]", None, ""),
    "tabs": ("path\tlabel|1.png\ta", "1.png[a]", None, ""),
    "quotes": ('"path","label"|"in/a, b.png","x|y"', "in/a, b.png[x\ny]", None, ""),
    "spaces, capitals, empty rows": (
        'Path, Label||1.png, "a, b"|,| , |2.png,b ',
        "1.png[a, b] 2.png[b]",
        None,
        "",
    ),
    "line ends of Windows, and a mark of UTF-8": (
        "\ufeffpath,label\r|1.png,größe\r|".encode().replace(b"|", b"\n"),
        "1.png[größe]",
        None,
        "",
    ),
    "a whole path": ("path|{dir}/1.png|in/../2.png", "1.png 2.png", None, ""),
    "numbers": (
        "path,label|1.png,10|2.png,9|3.png,-1|4.png,2.0",
        "1.png[10] 2.png[9] 3.png[-1] 4.png[2.0]",
        None,
        "",
    ),
    "columns of other names": (
        "id,path,class|1,1.png,a",
        "1.png",
        None,
        "Columns that are not used: id, class.",
    ),
    "some without label": (
        "path,label,split|1.png,a,train|2.png,,train|3.png,a,test",
        "1.png 2.png",
        None,
        "1 of 2 images of {name} have no label: all are used without. | "
        "test (1 image) is not used, as the training images have no labels.",
    ),
    "a test set without labels": (
        "path,label,split|1.png,a,train|2.png,,test|3.png,a,test",
        "1.png[a]",
        None,
        "1 of 2 images of {name} (test) have no label: all are used without. | "
        "test (2 images) is not used, as its images have no labels.",
    ),
    "one file of few is missing": (
        "path|1.png|no.png",
        "1.png no.png",
        None,
        "1 file is missing, in row 3: no.png.",
    ),
    "classes that differ in case": (
        "path,label|1.png,Cat|2.png,cat",
        "1.png[Cat] 2.png[cat]",
        None,
        "Different classes, though they differ only in case or accents: Cat and cat.",
    ),
}


@pytest.mark.parametrize("table", READ)
def test_what_is_read_and_said(opened, tmp_path, table):
    text, expected, expected_test, remarks = READ[table]
    train, test = opened(text)
    assert contents(train) == expected
    assert contents(test) == expected_test
    said = [line for source in (train, test) if source is not None for line in source.remarks]
    assert " | ".join(said) == remarks.replace("{name}", f"csv:{tmp_path / 't.csv'}")


REFUSED = {
    "no header": ("1.png,a|2.png,b", "whose first row names the columns: .*: 1.png, a in row 1"),
    "another header": (
        "file,label|1.png,a",
        "path and, .*: file, label in row 1 of .*t.csv",
    ),
    "nothing": ("", "Received: nothing in row 1"),
    "no rows": ("path,label", "images to train on"),
    "no training images": ("path,split|1.png,test", "images to train on"),
    "two columns of a name": ("path,label,Label|1.png,a,b", "Received: label in row 1 .*, twice"),
    "a cell too many": ("path,label|1.png,a|2.png,b,c", "as columns, 2; .*: 3 in row 3 of .*t.csv"),
    "a cell too few": ("path,label|1.png", "Received: 1 in row 2"),
    "a comma without quotes": ("path|in/a, b.png", "needs quotes. Received: 2 in row 2"),
    "a quote that is not closed": ('path|1.png|"2.png|3.png', r"Received: row 3 of .*\(unexpected"),
    "no path": ("path,label||1.png,a|,b", "a path in each row. Received: nothing in row 4"),
    "another part": ("path,split|1.png,train|2.png,dev", "val in the column split.*: dev in row 3"),
    "no part": ("path,split|1.png,train|2.png,", "Received: nothing in row 3"),
    "a file twice": ("path,label|1.png,a|2.png,a|./1.png,b", "./1.png in row 4 of .*, as in row 2"),
    "a folder": ("path|1.png|in", "paths of files. Received: in in row 3"),
    "missing files": (
        "path|1.png|no.png|2.png|{dir}/in/no.png",
        r"relative to the folder of the table.*: 2 files are missing, the first in row 3: no.png "
        r"\(of 4\) in .*t.csv",
    ),
    "an unknown class": (
        "path,label,split|1.png,a,train|2.png,A,test",
        r"Received: A in csv:.*t.csv \(test\), which is not one of them; the training set has a",
    ),
    "Latin-1": ("path,label|1.png,größe".replace("|", "\n").encode("latin-1"), "UTF-8.*in row 2"),
    "UTF-16": ("path".encode("utf-16"), "UTF-8"),
    "UTF-16 without mark": ("path".encode("utf-16-le"), "UTF-8"),
}


@pytest.mark.parametrize("table", REFUSED)
def test_what_is_refused_in_one_line(opened, table):
    text, message = REFUSED[table]
    with pytest.raises(DataError, match=message) as error:
        opened(text)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(("csv: needs", "The test set must"))


def test_a_table_that_is_not_there(tmp_path):
    for path, reason in (("none.csv", "No such file"), (".", "Is a directory")):
        with pytest.raises(DataError, match=rf"Received: .*\({reason}"):
            open_source(f"csv:{tmp_path / path}")


def test_classes_are_sorted_by_name_or_by_value(opened):
    train, _ = opened("path,label|1.png,10|2.png,9|3.png,-1.5|4.png,9.0")
    assert train.class_names == ("-1.5", "9", "9.0", "10")
    train, _ = opened("path,label|1.png,10|2.png,9|3.png,b|4.png,B")
    assert train.class_names == ("10", "9", "B", "b")


def test_images_may_be_held_out_of_a_table(opened):
    train, held_out = opened("path|1.png|2.png|3.png|4.png|in/5.png|{dir}/t.csv", "heldout:")
    assert (train.num_examples, held_out.num_examples) == (5, 1)


def test_the_datas_identity_knows_labels_and_files(opened):
    tables = ["path|1.png", "path|2.png", "path,label|1.png,a", "path,label|1.png,b"]
    tables += ["path,label|1.png,a|2.png,b", "path,label|1.png,b|2.png,a"]
    found = [opened(table)[0].fingerprint() for table in tables]
    # The name of the only class makes no difference to the labels.
    assert len(set(found)) == len(tables) - 1
