"""The page in a real browser: it opens offline, shows names as text, and does what its keys say."""

import contextlib
import csv
import io

import browser
import numpy as np
import pytest

from keras_bt.evaluation import maps
from keras_bt.plots.pages import explore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.FOUND is None, reason="There is no Chromium to open pages in."),
]
N = 600
HOSTILE = [
    "<script>hacked = 1</script><img src=x onerror='hacked = 1'>.png",
    '"><b onclick="hacked = 1">.png',
    "two\nlines\u2028and, \"quotes\" & 'more'.png",
    "写真/Фото/صورة\u202e.png",
    "</script></style><!--" + "x" * 300 + ".png",
    "${hacked = 1}`javascript:hacked = 1`.png",
]
NAMES = [f"{number:03}/{HOSTILE[number % len(HOSTILE)]}" for number in range(N)]
CLASSES = ["<b>one</b>", 'zwei & "zwei"', "三"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page of three well separated groups, one of each class; class 0 is the largest."""
    random = np.random.RandomState(0)
    labels = np.arange(3).repeat([300, 200, 100])
    places = random.uniform(-1, 1, (N, 2)) + np.array([[-3, 0], [3, 0], [0, 3]])[labels]
    predictions = labels.copy()
    predictions[5] = 2

    def images(numbers, size):
        return [np.full((24, 32, 3), [40 * labels[i] + 60, 90, 120], np.uint8) for i in numbers]

    path = tmp_path_factory.mktemp("page") / "pa ge#1.html"
    shown = explore.Explored(
        title=HOSTILE[0] + HOSTILE[4],
        names=NAMES,
        places=places,
        clusters=maps.Clusters(2 - labels, [np.flatnonzero(labels == k)[:9] for k in (2, 1, 0)]),
        neighbors=(np.arange(N)[:, None] + np.arange(1, 11)) % N,
        similarities=np.tile(np.linspace(1, 0.1, 10), (N, 1)),
        first=np.arange(0, N, 6),
        splits=["train"] * 400 + ["test"] * 200,
        labels=labels,
        class_names=CLASSES,
        predictions=predictions,
        remarks=[HOSTILE[1]],
    )
    explore.write(path, shown, images)
    return path


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser(1400, 900) as opened:
        yield opened


@pytest.fixture
def page(chromium, file):
    """The page, newly opened; after the test nothing may have complained, run or been asked for."""
    chromium.messages.clear()
    chromium.open(file)
    chromium.run("explore.map.moveTo = function (view) { this.view = view; this.draw(); }")
    yield chromium
    assert chromium.complaints() == []
    assert chromium.requests() == [file.as_uri()]
    assert chromium.run("typeof hacked") == "undefined"


def text(page, name):
    return page.run(f"document.getElementById('{name}').textContent")


def test_the_pointer_shows_the_end_of_a_long_name(page):
    page.mouse("mouseMoved", *place(page, 4), button="none")
    page.until("!document.getElementById('hover').hidden")
    name = NAMES[int(page.run("document.getElementById('hover').dataset.image"))]
    assert text(page, "hover-name") == (name if len(name) <= 60 else f"…{name[-60:]}")
    assert text(page, "hover-class") == CLASSES[0]
    page.mouse("mouseMoved", 5, 5, button="none")
    page.until("document.getElementById('hover').hidden")


def place(page, image):
    """Where an image is in the window."""
    return page.run(
        f"(([x, y]) => {{ const b = explore.map.canvas.getBoundingClientRect();"
        f" return [b.left + x, b.top + y]; }})(explore.map.screen({image}))"
    )


def press(page, name):
    page.run(f"document.getElementById('{name}').click()")


def frame(page):
    """Waits until what was asked for has been drawn."""
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def table(content):
    return list(csv.reader(io.StringIO(content, newline="")))


def test_names_are_shown_as_text(page):
    assert page.run("document.title") == HOSTILE[0] + HOSTILE[4]
    assert page.run("document.querySelectorAll('b, img, main script').length") == 0
    for image in range(len(HOSTILE)):
        page.click(*place(page, image))
        assert text(page, "image-path") in NAMES  # or that of a neighbor so near
        page.run(
            f"explore.map.dispatchEvent(new CustomEvent('choose', {{detail: {{image: {image}}}}}))"
        )
        assert text(page, "image-path") == NAMES[image]
        assert CLASSES[0] in text(page, "image-facts")
        tiles = "[...document.querySelectorAll('#image-neighbors .tile')]"
        assert page.run(f"{tiles}.map(t => t.title)") == NAMES[image + 1 : image + 11]
    assert page.run("getComputedStyle(document.getElementById('image-path')).overflowWrap") == (
        "anywhere"
    )
    # A name of 300 characters does not make the page wider than its window.
    assert page.run("document.documentElement.scrollWidth") <= 1400
    assert CLASSES[0] in text(page, "legend")


def test_the_browser_would_let_nothing_out_and_no_other_script_in(chromium, file):
    chromium.open(file)
    sent = "fetch('https://example.org').then(() => 'sent', () => 'refused')"
    assert chromium.run(sent) == "refused"
    chromium.run(f"document.body.insertAdjacentHTML('beforeend', {HOSTILE[0]!r})")
    chromium.until("document.querySelector('img[src=x]').complete")
    assert chromium.run("typeof hacked") == "undefined"
    said = [str(complaint) for complaint in chromium.complaints()]
    assert any("connect-src" in one or "default-src" in one for one in said)


def test_pictures_appear_on_zooming_in(page):
    assert page.run("performance.getEntriesByName('first-picture').length") == 1
    assert page.run("explore.map.drawn.length") == 0
    exact = np.array(place(page, 450))
    x, y = exact.round()
    before = page.run("explore.map.view.scale")
    for _ in range(4):
        page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120)
    frame(page)
    factor = page.run("explore.map.view.scale") / before
    assert factor > 3
    # What is below the pointer stays there.
    still = [x, y] + (exact - [x, y]) * factor
    np.testing.assert_allclose(place(page, 450), still, atol=0.1)
    assert page.run("explore.map.drawn.length") > 3
    page.until("explore.thumbnails.decoded.size > 0")
    frame(page)
    image, left, top, side = page.run(
        "explore.map.drawn.find(([, x, y, s]) => x > 0 && y > 0 && x + s < 900 && y + s < 700)"
    )
    # Pixels of the canvas in the middle of the picture.
    drawn = page.run(
        f"[...explore.map.context.getImageData({left + side / 2}, {top + side / 2}, 1, 1).data]"
    )
    label = int(np.searchsorted([300, 500], image, side="right"))
    assert np.abs(np.array(drawn[:3]) - [40 * label + 60, 90, 120]).max() < 12
    page.drag((x, y), (x + 50, y + 20), (x + 100, y + 40))
    frame(page)
    np.testing.assert_allclose(place(page, 450), np.add(still, [100, 40]), atol=6)


def test_filter_lasso_and_lists(page):
    page.run("document.getElementById('filter').focus()")
    for key in "01":
        page.key(key)
    page.key("Enter")
    expected = [name for name in NAMES if "01" in name]
    assert text(page, "count") == f"{len(expected)} of 600 images"
    press(page, "take")
    assert text(page, "selection-count") == f"{len(expected)} images selected"
    press(page, "selection-save")
    rows = table(page.downloaded("selection.csv"))
    assert rows[0] == ["path", "label", "split", "cluster"]
    assert [row[0] for row in rows[1:]] == expected
    for _ in range(3):
        page.key("Escape")
    assert text(page, "count") == "600 images"

    page.key("0") if page.run("document.activeElement.id") == "map" else press(page, "whole")
    frame(page)
    press(page, "lasso")
    corners = page.run(
        "(() => { const p = [...Array(100).keys()].map(k => explore.map.screen(500 + k));"
        "const b = explore.map.canvas.getBoundingClientRect();"
        "const [xs, ys] = [p.map(q => q[0] + b.left), p.map(q => q[1] + b.top)];"
        "return [Math.min(...xs) - 3, Math.max(...xs) + 3,"
        " Math.min(...ys) - 3, Math.max(...ys) + 3]; })()"
    )
    left, right, top, bottom = corners
    page.drag((left, top), (right, top), (right, bottom), (left, bottom), (left, top + 1))
    assert text(page, "selection-count") == "100 images selected"
    assert page.run("explore.map.mode") == "pan"

    page.run("document.getElementById('first-count').value = 7")
    page.run("document.getElementById('first-count').dispatchEvent(new Event('change'))")
    press(page, "first-save")
    rows = table(page.downloaded("label_first.csv"))
    assert rows == [["path", "label"], *([NAMES[i], CLASSES[0]] for i in range(0, 42, 6))]


def test_colors_and_clusters(page):
    options = page.run("[...document.getElementById('color').options].map(o => o.value)")
    assert options == ["class", "cluster", "split", "error"]
    page.run("document.getElementById('color').value = 'error'")
    page.run("document.getElementById('color').dispatchEvent(new Event('change'))")
    page.run("document.querySelectorAll('#legend button')[1].click()")
    assert text(page, "count") == "1 of 600 images"
    assert text(page, "status") == "1 image shown"
    page.key("Escape")
    assert text(page, "count") == "600 images"
    press(page, "tab-clusters")
    assert page.run("document.querySelectorAll('#cluster-list > li').length") == 3
    page.run("document.querySelector('#cluster-list button').click()")
    assert text(page, "count") == "100 of 600 images"
    assert f"{CLASSES[2]} 100%" in text(page, "cluster-list")
    page.run("document.getElementById('filter').value = 'nothing like it'")
    page.run("document.getElementById('filter').dispatchEvent(new Event('input'))")
    page.until("!document.getElementById('nothing').hidden")


def test_by_keyboard_alone(page):
    seen = []
    for _ in range(30):
        page.key("Tab")
        seen.append(page.run("document.activeElement.id || document.activeElement.tagName"))
        if seen[-1] == "map":
            break
    assert seen[:3] == ["help", "BUTTON", "filter"]
    assert seen[-1] == "map"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    before = page.run("explore.map.view.x")
    page.key("ArrowLeft")
    assert page.run("explore.map.view.x") < before
    scale = page.run("explore.map.view.scale")
    page.key("+")
    page.key("Enter")
    assert page.run("explore.map.view.scale") > scale
    assert text(page, "image-path") in NAMES
    assert text(page, "status").startswith("Opened ")
    page.key("Escape")
    assert page.run("document.getElementById('image-shown').hidden")
    page.key("?")
    assert page.run("document.getElementById('about').open")
    assert HOSTILE[1] in text(page, "about")
    page.key("Escape")
    assert not page.run("document.getElementById('about').open")
    unnamed = (
        "[...document.querySelectorAll('button, input, select, canvas:not([aria-hidden])')]"
        ".filter(e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).length"
    )
    assert page.run(unnamed) == 0


@pytest.mark.parametrize("width", [390, 1400])
def test_texts_can_be_read_in_light_and_dark(chromium, file, width):
    """All texts have a contrast of 4.5:1 to what is behind them, and nothing sticks out."""
    large = contextlib.nullcontext(chromium)
    with large if width == 1400 else browser.Browser(width, 844, mobile=True) as page:
        page.open(file)
        press(page, "tab-first")
        for theme in ("light", "dark"):
            assert page.run(_CONTRAST) > 4.5, theme
            page.run("document.querySelector('[data-theme-toggle]').click()")
        assert page.run("document.documentElement.scrollWidth") <= width


_CONTRAST = """(() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const luminance = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((value) => {
      const v = value / 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
  };
  const ratios = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || element.closest("script, :disabled")) continue;
    const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance);
    ratios.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return ratios.length > 20 ? Math.min(...ratios) : 0;
})()"""
