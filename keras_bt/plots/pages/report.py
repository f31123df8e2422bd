"""The page about a run that a person would show a colleague: figures, curves, pictures, settings.

It shows what it is given, so a run without labels or one that was interrupted has a page, too.
"""

import dataclasses
import io
import math
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_bt.plots.evaluation import MEASURES
from keras_bt.plots.pages import page
from keras_bt.plots.training import TERMS
from keras_bt.typing import Metrics, Path

_MOST_POINTS = 400  # of a curve: about one per pixel
_ACCURACY = "Accuracy while training, in percent"
_WIDEST = 1400  # pixels of an embedded picture; the file beside has them all
_CHARTS: dict[str, dict[str, str]] = {
    "Loss": {
        **{"loss": "loss", "val_loss": "of the test images"},
        "excess": "above its floor",
    },
    "Terms of the loss, without weights": {name: name.replace("_", "-") for name in TERMS},
    _ACCURACY: {
        **{"knn_accuracy": "nearest neighbors", "linear_accuracy": "linear probe"},
        **{"top1": "training images", "top5": "training images, top 5"},
        **{"val_top1": "test images", "val_top5": "test images, top 5"},
    },
    "Distance of pairs": {"distance_same": "same", "distance_different": "different"},
    **{
        name[0].upper() + name[1:]: keys
        for name, keys in MEASURES.items()
        if "knn_accuracy" not in keys
    },
    "Learning rate": {"learning_rate": "learning rate"},
    "Images per second": {"images_per_second": "images per second"},
}
_NO_CURVE = ("step", "epoch", "time")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Some images with those nearest to them.

    Attributes:
        queries: q images, uint8 (h, w, 3).
        neighbors: for each of them k images, the nearest first.
        similarities: floats (q, k).
        query_names: for each query its class, or None without labels.
        neighbor_names: for each neighbor the same, (q, k), or None.
        where: among which images, by which similarity.
    """

    queries: Sequence[np.ndarray]
    neighbors: Sequence[Sequence[np.ndarray]]
    similarities: np.ndarray
    query_names: Sequence[str] | None
    neighbor_names: Sequence[Sequence[str]] | None
    where: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What the page of a run shows; whatever is empty is left out.

    Attributes:
        name: that of the run.
        facts: sentences on what was trained and how far.
        words: sentences on the outcome.
        terminal: what the terminal said at the end, instead of `words`.
        columns: what was measured: the heads of the columns of `figures`.
        figures: name of a protocol → for each column a text.
        measured_on: on which images.
        metrics: as `keras_bt.callbacks.metrics_log.read_metrics` returns them.
        pictures: (path of a PNG file, caption).
        neighbors: some images with their nearest neighbors.
        settings: name → value, and the default or None if it is not known.
        command: what repeats the run.
        files: (path, what it is).
        about: name → text: versions, for example.
    """

    name: str
    facts: Sequence[str]
    words: Sequence[str] = ()
    terminal: str = ""
    columns: Sequence[str] = ()
    figures: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    measured_on: str = ""
    metrics: Sequence[Metrics] = ()
    pictures: Sequence[tuple[Path, str]] = ()
    neighbors: Neighbors | None = None
    settings: Mapping[str, tuple[str, str | None]] = dataclasses.field(default_factory=dict)
    command: str = ""
    files: Sequence[tuple[str, str]] = ()
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write(path: Path, report: Report) -> None:
    """Writes the page, whole or not at all.

    >>> write("report.html", Report(name="digits", facts=["Trained for <1 epoch."]))
    >>> with open("report.html", encoding="utf-8") as file:
    ...     "Trained for &lt;1 epoch." in file.read()
    True

    Args:
        path: the HTML file.
        report: what it shows; the paths of its files are relative to the page.

    Raises:
        OSError: if the file cannot be written, or a picture cannot be read.
    """
    charts = curves(report.metrics)
    sections = [
        _outcome(report),
        _curves(charts),
        _neighbors(report.neighbors),
        _pictures(report.pictures),
        _settings(report),
        _files(report),
    ]
    facts = "".join(f"<p>{page.text(fact)}</p>" for fact in report.facts)
    body = f"""<header class="page-header">
<h1 class="path">{page.text(report.name)}</h1>
<button class="end" type="button" data-theme-toggle aria-pressed="false">Dark</button>
</header>
<main>
<div class="facts">{facts}</div>
{"".join(sections)}
</main>"""
    page.write(path, report.name, body, ("report",), {"charts": charts})


def curves(metrics: Sequence[Metrics]) -> list[dict[str, Any]]:
    """Returns the charts of what was logged, as JSON values, with at most 400 points a curve.

    Of longer ones, each point is the mean of as many logged values.

    >>> metrics = [{"step": 1, "epoch": 1, "loss": 3.0}, {"step": 2, "epoch": 1, "loss": 1.0}]
    >>> (chart,) = curves(metrics)
    >>> chart["title"], chart["curves"]
    ('Loss', [{'name': 'loss', 'x': [1, 2], 'epochs': [1, 1], 'y': [3.0, 1.0]}])

    Args:
        metrics: see `Report`.

    Returns:
        For each chart with a finite value its title and curves: name, steps, epochs, values.
    """
    known = {name: titles.keys() for name, titles in _CHARTS.items()}
    shown = {key for keys in known.values() for key in keys}
    others = {key: None for entry in metrics for key in entry if key not in shown}
    charts = _CHARTS | {key: {key: key} for key in others if key not in _NO_CURVE}
    found: list[dict[str, Any]] = []
    for title, keys in charts.items():
        drawn = [
            {"name": name, **curve}
            for key, name in keys.items()
            if (curve := _curve(metrics, key, 100 if title == _ACCURACY else 1))
        ]
        # Where no smallest loss is known, `excess` is the loss.
        if len(drawn) == 2 and title == "Loss" and drawn[0]["y"] == drawn[1]["y"]:
            drawn.pop()
        if drawn:
            found.append({"title": title, "curves": drawn})
    return found


def _curve(metrics, key, factor):
    points = [
        (entry["step"], entry.get("epoch", 0), entry[key])
        for entry in metrics
        if math.isfinite(entry.get(key, math.nan))
    ]
    if not points:
        return None
    parts = np.array_split(np.array(points, float), min(len(points), _MOST_POINTS))
    steps, epochs = (np.array([part[-1, i] for part in parts]) for i in (0, 1))
    values = [float(f"{factor * part[:, 2].mean():.5g}") for part in parts]
    return {"x": steps.astype(int).tolist(), "epochs": epochs.astype(int).tolist(), "y": values}


def _outcome(report):
    words = "".join(f"<p>{page.text(sentence)}</p>" for sentence in report.words)
    if report.terminal:
        words += f"<pre>{page.text(report.terminal)}</pre>"
    table = ""
    if report.figures:
        head = "".join(
            f'<th scope="col" class="number">{page.text(c)}</th>' for c in report.columns
        )
        rows = "".join(
            f'<tr><th scope="row">{page.text(name)}</th>'
            + "".join(f'<td class="number">{page.text(value)}</td>' for value in values)
            + "</tr>"
            for name, values in report.figures.items()
        )
        on = "Accuracy in percent"
        on += f", at the end of the run on {report.measured_on}" if report.measured_on else ""
        table = f"""<div class="wide"><table>
<caption>{page.text(on)}</caption>
<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"""
    return _section("Outcome", words + table)


def _curves(charts):
    if not charts:
        return ""
    places = "".join(
        f'<figure class="chart" data-chart="{i}"></figure>' for i in range(len(charts))
    )
    return _section(
        "Curves",
        f"""<p class="quiet small">Over the steps of training. Point at a curve, or focus it and use
the arrow keys, for its values; metrics.jsonl has all of them.</p>
<noscript><p>The curves need JavaScript.</p></noscript><div class="charts">{places}</div>""",
    )


def _pictures(pictures):
    figures = []
    for path, caption in pictures:
        with Image.open(path) as image:
            width, height = image.size
            content = _embedded(image.convert("RGB"))
        figures.append(
            f'<figure class="picture"><img src="{page.data_url(content)}" width="{width}" '
            f'height="{height}" alt="{page.text(caption)}">'
            f"<figcaption>{page.text(caption)}</figcaption></figure>"
        )
    return (
        _section("Pictures", f'<div class="pictures">{"".join(figures)}</div>') if figures else ""
    )


def _neighbors(found):
    if found is None:
        return ""
    rows = []
    for number, query in enumerate(found.queries):
        name = found.query_names and found.query_names[number]
        cells = [_thumbnail(query, name or "query", "query")]
        for place, image in enumerate(found.neighbors[number]):
            similarity = f"{found.similarities[number][place]:.2f}"
            if found.neighbor_names is None:
                cells.append(_thumbnail(image, similarity))
                continue
            other = found.neighbor_names[number][place]
            same = other == name
            caption = similarity if same else f"{similarity} · {other}"
            cells.append(_thumbnail(image, caption, "same" if same else "different"))
        rows.append(f"<li>{''.join(cells)}</li>")
    marks = ""
    if found.neighbor_names is not None:
        marks = " Neighbors of another class are framed, and their class is named."
    return _section(
        "Nearest neighbors",
        f"""<p class="quiet small">On the left some images, beside each the nearest ones with their
similarity, {page.text(found.where)}.{marks}</p>
<div class="wide"><ol class="neighbors">{"".join(rows)}</ol></div>""",
    )


def _thumbnail(image, caption, kind=""):
    height, width = image.shape[:2]
    coarse = " coarse" if max(height, width) < 48 else ""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG" if coarse else "JPEG", quality=85)
    return (
        f'<figure class="{kind}{coarse}"><img src="{page.data_url(file.getvalue())}" alt="">'
        f"<figcaption>{page.text(caption)}</figcaption></figure>"
    )


def _settings(report):
    if not report.settings:
        return ""
    changed = {n: pair for n, pair in report.settings.items() if pair[1] not in (None, pair[0])}
    others = {n: pair for n, pair in report.settings.items() if n not in changed}
    rows = _rows(((name, value, default) for name, (value, default) in changed.items()), 1)
    table = ""
    if changed:
        table = f"""<div class="wide"><table class="settings">
<thead><tr><th scope="col">Other than by default</th><th scope="col">value</th>
<th scope="col">default</th></tr></thead><tbody>{rows}</tbody></table></div>"""
    rest = _rows(((name, value) for name, (value, _) in others.items()), 0)
    command = f"<pre>{page.text(report.command)}</pre>" if report.command else ""
    head = f"{len(others)} settings" + (" as by default" if changed else "")
    return _section(
        "Settings",
        f"""<details><summary>{_count(changed, others)}</summary>
{command}{table}
<div class="wide"><table class="settings"><thead><tr><th scope="col">{head}</th>
<th scope="col">value</th></tr></thead><tbody>{rest}</tbody></table></div></details>""",
    )


def _count(changed, others):
    if not changed:
        return f"All {len(others)} settings"
    names = ", ".join(page.text(name) for name in changed)
    return f"All {len(changed) + len(others)} settings; other than by default: {names}"


def _rows(rows, quiet_from):
    """Returns rows of a head and cells, of which those from a number on, if not 0, are quiet."""
    return "".join(
        f'<tr><th scope="row"><code>{page.text(name)}</code></th>'
        + "".join(
            f'<td class="{"quiet " if i >= quiet_from > 0 else ""}path">{page.text(value)}</td>'
            for i, value in enumerate(values)
        )
        + "</tr>"
        for name, *values in rows
    )


def _files(report):
    links = "".join(
        f'<li><a class="path" href="{urllib.parse.quote(os.fsencode(path))}">{page.text(path)}</a> '
        f'<span class="quiet">{page.text(what)}</span></li>'
        for path, what in report.files
    )
    about = "".join(
        f"<dt>{page.text(name)}</dt><dd class='path'>{page.text(value)}</dd>"
        for name, value in report.about.items()
    )
    inside = f"<ul class='files'>{links}</ul>" if links else ""
    inside += f"<dl class='small'>{about}</dl>" if about else ""
    return _section("Files", inside) if inside else ""


def _section(title, inside):
    return f"<section><h2>{page.text(title)}</h2>{inside}</section>\n" if inside else ""


def _embedded(image):
    """Returns a picture as a small WebP file."""
    image.thumbnail((_WIDEST, 4 * _WIDEST))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80, method=2)
    return file.getvalue()
