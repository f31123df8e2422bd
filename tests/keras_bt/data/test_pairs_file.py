"""Tables of pairs of image files: what is read, what is said, and what is refused."""

import os

import numpy as np
import pytest
from PIL import Image

from keras_bt.data.decoding import DataError
from keras_bt.data.specs import open_source
from keras_bt.data.verification import paired_parts

HEADER = "path_a,path_b,same|"


@pytest.fixture
def opened(tmp_path):
    """Writes a table (lines separated by |) beside six images and opens it."""
    (tmp_path / "in").mkdir()
    for name in ("1.png", "2.png", "3.png", "4.png", "5.png", "6.png"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)

    def open_table(table):
        (tmp_path / "t.csv").write_text(table.replace("|", "\n"))
        return open_source(f"pairs:{tmp_path / 't.csv'}")

    return open_table


def contents(source):
    if source is None:
        return None
    paths = [os.path.relpath(path, source.root) for path in source.paths]
    sides = zip(source.pairs.first, source.pairs.second, source.pairs.same, strict=True)
    return " ".join(f"{paths[a][0]}{'=' if same else '/'}{paths[b][0]}" for a, b, same in sides)


def test_each_image_once_and_the_pairs_by_part(opened):
    train, test = opened(
        "split;path_b;path_a;same;who|train;2.png;1.png;1;x|train;./1.png;3.png;No;x|"
        "val;4.png;3.png;TRUE;y|val;5.png;4.png;0;y|test;6.png;1.png;yes;z|test;6.png;5.png;false;z"
    )
    assert contents(train) == "1=2 3/1"
    assert contents(train.validation) == "3=4 4/5"
    assert contents(test) == "1=6 5/6"
    assert train.class_names is None
    assert [os.path.basename(path) for path in train.paths] == ["1.png", "2.png", "3.png"]
    columns, validation, tested = train.remarks
    assert columns == "Columns that are not used: who."
    assert "1 image of " in validation
    assert "(val) is in training pairs, too" in validation
    assert "(test) is" in tested


REFUSED = {
    "columns of a table of images": ("path,label|1.png,a", "path_a, path_b, same and, if wanted"),
    "no answers": ("path_a,path_b|1.png,2.png", "path_a, path_b in row 1"),
    "no rows": (HEADER, "pairs to train on"),
    "no training pairs": ("path_a,path_b,same,split|1.png,2.png,1,test", "pairs to train on"),
    "another part": ("path_a,path_b,same,split|1.png,2.png,1,dev", "val in the column .*: dev in"),
    "another answer": (HEADER + "1.png,2.png,maybe", "yes or no .*: maybe in row 2"),
    "no answer": (HEADER + "1.png,2.png,", "yes or no .*: nothing in row 2"),
    "a missing image": (HEADER + "1.png,2.png,1|1.png,no.png,0", "exist.*: no.png in row 3"),
    "no path": (HEADER + "1.png,,1", "a path in each row.*row 2"),
    "a folder": (HEADER + "1.png,in,1", "paths of files.*: in in row 2"),
    "an image with itself": (HEADER + "1.png,./1.png,1", "two images .*: ./1.png in row 2 .*twice"),
    "two answers": (
        HEADER + "1.png,2.png,1|1.png,3.png,0|2.png,1.png,no",
        "one answer .*: same=no in row 4 .*, but not in row 2",
    ),
    "all the same": (HEADER + "1.png,2.png,1", "has none of different things"),
    "none the same": (
        "path_a,path_b,same,split|1.png,2.png,1,train|1.png,3.png,0,train|4.png,5.png,0,test",
        r"t.csv \(test\), which has none of the same thing",
    ),
}


@pytest.mark.parametrize("table", REFUSED)
def test_what_is_refused_is_told_in_one_line(opened, table):
    text, message = REFUSED[table]
    with pytest.raises(DataError, match=message) as refused:
        opened(text)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("pairs: needs ")


def test_the_parts_are_those_of_the_file(opened):
    both = "1.png,2.png,1,{0}|1.png,3.png,0,{0}|"
    table = "path_a,path_b,same,split|" + "".join(map(both.format, ("train", "val", "test")))
    train, test = opened(table.replace("val", "test"))
    with pytest.raises(DataError, match=r"Two pairs of the same thing .*: 1 of one kind"):
        paired_parts(train, test)
    for given in ({"unseen": "2"}, {"labels": "50"}):
        with pytest.raises(DataError, match="no classes to draw from"):
            paired_parts(train, test, **given)
    train, test = opened(table)
    parts = paired_parts(train, test)
    assert parts.train.pairs is train.pairs
    assert parts.validation.source is train.validation
    assert parts.test.pairs is test.pairs
    assert not parts.remarks


def test_a_fifth_of_the_pairs_takes_the_place_of_missing_parts(opened):
    table = "".join(f"{a}.png,{b}.png,{int(b < 5)}|" for b in range(2, 7) for a in range(1, b))
    train, test = opened(HEADER + table)  # 6 and 9 pairs
    parts = paired_parts(train, test, seed=1)
    assert test is None
    assert parts.test is parts.validation
    assert [len(part.pairs) for part in (parts.train, parts.test)] == [13, 2]
    assert np.sort(parts.test.pairs.same).tolist() == [False, True]
    assert "2 of the training pairs are held out" in parts.remarks[0]
    assert "3 of their 3 images are in training pairs, too" in parts.remarks[1]
    assert "There are no test pairs" in parts.remarks[2]
    assert parts.train.identity() != parts.test.identity()
    assert parts.train.identity() == paired_parts(train, test, seed=1).train.identity()


def test_rows_of_the_same_two_images_stay_together(opened):
    table = "".join(f"{a}.png,{b}.png,{int(b < 5)}|" for b in range(2, 7) for a in range(1, b))
    turned = "".join(f"{b}.png,{a}.png,{int(b < 5)}|" for b in range(2, 7) for a in range(1, b))
    parts = paired_parts(*opened(HEADER + table + turned), seed=1)
    of_train, held_out = (
        {frozenset(pair) for pair in zip(part.pairs.first, part.pairs.second, strict=True)}
        for part in (parts.train, parts.validation)
    )
    assert (len(of_train), len(held_out)) == (13, 2)
    assert not of_train & held_out
