"""The page of a run: what it shows, whatever names it is given."""

import html.parser

import numpy as np
import pytest

from keras_bt.plots.pages import report

NASTY = "</script><script>alert(1)</script><b onclick='x'>\"&\n\u202e\udcff" + "ä" * 300


class Page(html.parser.HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def full(text, png):
    image = np.zeros((8, 4, 3), np.uint8)
    neighbors = report.Neighbors(
        queries=[image],
        neighbors=[[image, image]],
        similarities=np.array([[0.9, 0.8]]),
        query_names=[text],
        neighbor_names=[[text, f"other {text}"]],
        where=text,
    )
    return report.Report(
        name=text,
        facts=[text],
        words=[text],
        terminal=text,
        columns=[text],
        figures={text: [text]},
        measured_on=text,
        metrics=[{"step": 1, "loss": 2.0, text: 3.0}],
        pictures=[(png, text)],
        neighbors=neighbors,
        settings={text: (text, "other"), f"{text}2": (text, None)},
        command=text,
        files=[(text, text)],
        about={text: text},
    )


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    report.Image.new("RGB", (3000, 20)).save(path)
    return path


def test_names_are_shown_as_text_and_do_nothing(tmp_path, png):
    pages = []
    for text in ("ordinary", NASTY):
        report.write(tmp_path / "report.html", full(text, png))
        pages.append(Page(tmp_path / "report.html"))
    plain, nasty = pages
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]
    assert [[*a] for _, a in nasty.tags] == [[*a] for _, a in plain.tags]
    # All of it that stands outside of tags.
    assert "".join(nasty.texts).count("alert(1)") == "".join(plain.texts).count("ordinary")
    (link,) = (a["href"] for a in nasty.named("a"))
    assert link.startswith("%3C/script")
    (picture,) = (a for a in nasty.named("img") if a["alt"])
    assert picture["src"].startswith("data:image/webp;base64,")
    assert len(picture["src"]) < 5000


def test_what_is_missing_is_left_out(tmp_path):
    report.write(tmp_path / "report.html", report.Report(name="run", facts=["Nothing yet."]))
    page = Page(tmp_path / "report.html")
    assert "Nothing yet." in page.texts
    assert not page.named("section")


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([], {}),
        ([{"step": 1, "loss": float("nan")}], {}),
        # Without a known floor, `excess` is the loss.
        ([{"step": 1, "loss": 2.0, "excess": 2.0}], {"Loss": {"loss": ([1], [2.0])}}),
        (
            [{"step": 5, "loss": 2.0, "excess": 1.0}, {"step": 5, "knn_accuracy": 0.875}],
            {
                "Loss": {"loss": ([5], [2.0]), "above its floor": ([5], [1.0])},
                "Accuracy while training, in percent": {"nearest neighbors": ([5], [87.5])},
            },
        ),
        ([{"step": 3, "epoch": 1, "time": 9.0, "own": -1.0}], {"own": {"own": ([3], [-1.0])}}),
        (
            [{"step": step, "loss": step % 2} for step in range(1, 801)],
            {"Loss": {"loss": ([*range(2, 801, 2)], [0.5] * 400)}},
        ),
    ],
)
def test_curves_hold_what_was_logged(metrics, expected):
    found = {
        chart["title"]: {curve["name"]: (curve["x"], curve["y"]) for curve in chart["curves"]}
        for chart in report.curves(metrics)
    }
    assert found == expected
