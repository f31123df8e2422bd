"""Pages hold what they are given as text, ask nobody for anything, and are whole files."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from keras_bt.evaluation import maps
from keras_bt.plots.pages import explore, page

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


def explored(n, **more):
    """A page's contents for n images, with hostile names."""
    random = np.random.RandomState(0)
    k = min(10, n - 1)
    given = {
        "title": HOSTILE[0],
        "names": [f"{number}/{HOSTILE[number % len(HOSTILE)]}" for number in range(n)],
        "places": random.standard_normal((n, 2)),
        "clusters": maps.clusters(random.standard_normal((n, 3)), min(n, 4)),
        "neighbors": (np.arange(n)[:, None] + np.arange(1, k + 1)) % n,
        "similarities": np.tile(np.linspace(1, -1, k), (n, 1)),
        "first": np.arange(min(n, 20)),
    }
    return explore.Explored(**given | more)


def noise(numbers, size):
    """The largest pictures that there can be."""
    random = np.random.RandomState(0)
    return [random.randint(0, 256, (size, size // 2, 3), np.uint8) for _ in numbers]


def test_a_page_is_as_small_as_wanted(tmp_path):
    most = 900_000
    side = explore.write(tmp_path / "page.html", explored(1000), noise, most)
    assert side < explore.write(tmp_path / "few.html", explored(40), noise, most)
    for file in ("page.html", "few.html"):
        assert most / 3 < (tmp_path / file).stat().st_size < most


def test_thumbnails_are_where_the_page_says(tmp_path):
    n = 300

    def images(numbers, size):
        return [np.full((20, 30, 3), number % 250, np.uint8) for number in numbers]

    assert explore.write(tmp_path / "page.html", explored(n), images) == 32
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="page-data">(.*?)</script>', text, re.DOTALL)[1])
    sheets = data["sheets"]
    slots = np.frombuffer(base64.b64decode(sheets["slots"]["base64"]), "<i4")
    assert sorted(slots) == list(range(n))
    sizes = np.frombuffer(base64.b64decode(sheets["sizes"]["base64"]), np.uint8).reshape(n, 2)
    assert (sizes == [30, 20]).all()
    encoded = re.search(r'data-picture="sheet-0">(.*?)</script>', text)[1]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
        sheet = np.array(opened)
    for number, slot in enumerate(slots):
        row, column = divmod(slot, sheets["columns"])
        color = sheet[row * 32 + 10, column * 32 + 15]
        assert abs(color.astype(int) - number % 250).max() <= 8  # WebP is lossy


def test_pictures_on_the_map_do_not_overlap():
    places = np.random.RandomState(0).beta(0.5, 0.5, (500, 2)).astype(np.float32)
    places[-3:] = places[0]
    levels = explore.picture_levels(places)
    assert (levels[-3:] == 255).all()
    for level in range(13):
        shown = places[levels <= level]
        apart = np.abs(shown[:, None] - shown).max(axis=2) + np.eye(len(shown))
        assert apart.min() >= 2.0**-level / 16 * (1 - 1e-6)
        hidden = places[(levels > level) & (levels < 255)]
        if len(hidden):  # because of a picture that is in the way
            near = np.abs(hidden[:, None] - shown).max(axis=2).min(axis=1)
            assert near.max() < 2.0**-level / 16
