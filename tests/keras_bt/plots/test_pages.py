"""Pages hold what they are given as text, ask nobody for anything, and are whole files."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from keras_bt.plots.pages import page

HOSTILE = [
    "</script><script>hacked = 1</script>",
    '" onmouseover="hacked = 1" x="',
    "' & <!-- <b>",
    "two\nlines\u2028\u2029\ttab",
    "写真/Фото/صورة\u202e.png",
    "\udcff.png",  # a byte that is no UTF-8, as Python reads it from a folder
    "x" * 300,
]


def written(folder, **parts):
    page.write(folder / "page.html", HOSTILE[0], "<main></main>", **parts)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_whatever_it_holds_there_are_only_its_own_elements(tmp_path):
    names = {name: HOSTILE for name in HOSTILE}
    text = written(tmp_path, data=names)
    assert text.count("<script") == text.count("</script>") == 2  # the data and page.js
    assert text.count("<title>") == 1
    data = re.search(r'id="page-data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data) == names
    assert not set("<>&\u2028\u2029") & set(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_texts_in_html_are_no_html(name):
    assert not set("<>\"'") & set(page.text(name))


def test_no_request_and_no_script_of_others_is_allowed(tmp_path):
    text = written(tmp_path, pictures={"a": b"\x89PNG"})
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert rules["script-src"] == " ".join(f"'sha256-{one}'" for one in hashes)
    assert text.index("Content-Security-Policy") < text.index("<style")
    assert not re.search(r"https?://|@import|url\(", text)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (float("nan"), "not JSON compliant"),
        (np.zeros(3), "8 to 32 bits. Received: float64"),
        (np.array(["a"]), "arrays of numbers"),
        (np.float32(1), "arrays of numbers"),
    ],
)
def test_what_a_script_could_not_read_is_no_data(value, rule, tmp_path):
    with pytest.raises(ValueError, match=rule):
        written(tmp_path, data={"value": value})
    assert not list(tmp_path.iterdir())


def test_arrays_are_little_endian_and_flat(tmp_path):
    places = np.array([[1, 2], [3, 70_000]], ">i4")
    data = json.loads(page.json_text({"places": places}))["places"]
    assert data["$array"] == "int32"
    assert np.frombuffer(base64.b64decode(data["base64"]), "<i4").tolist() == [1, 2, 3, 70_000]
