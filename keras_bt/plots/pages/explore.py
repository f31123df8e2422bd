"""A page to look at all images of a collection: a map, neighbors, clusters, and lists to save.

How it works in the browser is in `explore.js` (the panel), `image_map.js` (the map) and
`thumbnails.js`; `keras_bt/evaluation/maps.py` has what it shows.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_bt.evaluation.maps import Clusters
from keras_bt.plots.pages import page
from keras_bt.typing import Path

MOST_BYTES = 60_000_000  # of a page: what a browser opens in seconds
# Pixels of the longer side of a thumbnail, all multiples of what WebP compresses at once.
_SIDES = (192, 160, 128, 96, 80, 64, 48, 32, 16)
_BYTES_PER_PIXEL = 0.45  # of photographs so small, at the best quality
_QUALITIES = (85, 75, 60, 45, 30, 15, 5)
_SHEET = 1024  # pixels of a side: what is decoded at once, 4 MB
# Of the map's longer side: the room of a picture at level 0. At each further level it is half.
_BASE = 1 / 16
_DEEPEST = 12
_NEVER = 255
# Of so few images, pictures are shown at once; of more, from the first closer look.
_FEW = 400


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Explored:
    """What the page shows of n images.

    Attributes:
        title: what the images are, in a few words.
        names: n paths or names.
        places: floats (n, 2), see `keras_bt.evaluation.maps.image_map`.
        clusters: `Clusters`.
        neighbors: integers (n, k), the most similar images of each, most similar first.
        similarities: floats (n, k), theirs, -1 to 1.
        first: integers (m,), images to label, the most important first.
        splits: n names of splits, or None.
        labels: integers (n,), -1 without a label, or zeros and ones (n, classes) if an image may
            have several; or None.
        class_names: names of the classes, with labels.
        predictions: integers (n,), the classes that a probe took them for; or None.
        remarks: sentences about how this was made, shown on request.
    """

    title: str
    names: Sequence[str]
    places: np.ndarray
    clusters: Clusters
    neighbors: np.ndarray
    similarities: np.ndarray
    first: np.ndarray
    splits: Sequence[str] | None = None
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    predictions: np.ndarray | None = None
    remarks: Sequence[str] = ()


def write(
    path: Path,
    explored: Explored,
    images: Callable[[np.ndarray, int], Sequence[np.ndarray]],
    most_bytes: int = MOST_BYTES,
) -> int:
    """Writes the page.

    The more images, the smaller their thumbnails, and the more they are compressed: the page has
    at most `most_bytes` for all but the noisiest of pictures.

    Args:
        path: the HTML file.
        explored: what to show.
        images: function of image numbers, int64 (m,), and a size, that returns m pictures, uint8
            (h, w, 3), whose longer side has at most so many pixels. It is called for a part of the
            images at a time.
        most_bytes: how large the page may be.

    Returns:
        Pixels of the longer side of a thumbnail.

    Raises:
        ValueError: if there are no images.
        OSError: if the file cannot be written.
    """
    n = len(explored.names)
    if n == 0:
        raise ValueError("There must be images to explore. Received: none.")
    places = _placed(np.asarray(explored.places, np.float64))
    levels = picture_levels(places)
    data = _data(explored, places, levels)
    # Pictures that lie together and appear together are in one sheet; base64 makes 4 bytes of 3.
    order = np.lexsort((_along_a_curve(places), levels))
    room = (0.98 * most_bytes - len(page.json_text(data))) * 3 / 4
    sheets, pictures = _sheets(order, images, max(room, 0))
    data["sheets"] = sheets
    remarks = [*explored.remarks, f"Thumbnails have up to {sheets['cell']} pixels a side."]
    page.write(
        path,
        explored.title,
        _body(explored.title, n, remarks),
        ("thumbnails", "image_map", "explore"),
        data,
        pictures,
    )
    return sheets["cell"]


def picture_levels(places: np.ndarray) -> np.ndarray:
    """Chooses at which level of detail each image becomes a picture, so that none overlap.

    At level l a picture has room of side 2^−l / 16. Those of a level stay at all further ones.

    >>> picture_levels(np.array([[0.0, 0.0], [0.04, 0.0], [1.0, 1.0], [1.0, 1.0]])).tolist()
    [0, 1, 0, 255]

    Args:
        places: floats (n, 2), 0 to 1; the earlier of two images goes first.

    Returns:
        uint8 (n,): 0 to 12, or 255 for those that lie on top of others at all levels.
    """
    levels = np.full(len(places), _NEVER, np.uint8)
    rest = list(range(len(places)))
    accepted: list[tuple[float, float]] = []
    for level in range(_DEEPEST + 1):
        side = _BASE / 2**level
        cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for x, y in accepted:
            cells.setdefault((int(x / side), int(y / side)), []).append((x, y))
        left = []
        for number in rest:
            x, y = places[number].tolist()
            column, row = int(x / side), int(y / side)
            if any(
                abs(x - other_x) < side and abs(y - other_y) < side
                for r in (row - 1, row, row + 1)
                for c in (column - 1, column, column + 1)
                for other_x, other_y in cells.get((c, r), ())
            ):
                left.append(number)
                continue
            levels[number] = level
            accepted.append((x, y))
            cells.setdefault((column, row), []).append((x, y))
        rest = left
    return levels


def _placed(places):
    """Moves and scales places to 0 to 1 along the longer side, in their proportions."""
    places = places - places.min(axis=0)
    return (places / max(places.max(), 1e-30)).astype(np.float32)


def _along_a_curve(places):
    """Returns how far along a curve that fills the square each place is: a Morton number."""
    x, y = (places.astype(np.float64) * 1023).astype(np.int64).T
    bits = np.arange(10)
    spread = ((x[:, None] >> bits & 1) << 2 * bits) | ((y[:, None] >> bits & 1) << 2 * bits + 1)
    return spread.sum(axis=1)


def _data(explored, places, levels) -> dict[str, Any]:
    """Returns what the scripts read, all but the sheets."""
    splits = explored.splits or ["all"] * len(explored.names)
    split_names = list(dict.fromkeys(splits))
    data: dict[str, Any] = {
        "names": list(explored.names),
        "x": places[:, 0],
        "y": places[:, 1],
        "levels": levels,
        "base": _BASE,
        "firstLevel": 0 if len(places) <= _FEW else 1,
        "splits": {
            "names": split_names,
            "of": np.array([split_names.index(split) for split in splits], np.uint8),
        },
        "clusters": {
            "of": np.asarray(explored.clusters.of, np.int32),
            "typical": [one.tolist() for one in explored.clusters.typical],
        },
        "neighborCount": explored.neighbors.shape[1],
        "neighbors": np.asarray(explored.neighbors, np.int32),
        "similarities": np.rint(np.asarray(explored.similarities) * 100).astype(np.int8),
        "first": np.asarray(explored.first, np.int32),
    }
    if explored.labels is not None and explored.class_names is not None:
        names = list(map(str, explored.class_names))
        labels = np.asarray(explored.labels)
        if labels.ndim == 1:
            data["classes"] = {"names": names, "of": labels.astype(np.int32)}
        else:
            data |= {"classNames": names, "several": [np.flatnonzero(r).tolist() for r in labels]}
    if explored.predictions is not None:
        data["predicted"] = np.asarray(explored.predictions, np.int32)
    return data


def _sheets(order, images, room):
    """Draws thumbnails in that order on sheets; returns what the script reads, and the sheets."""
    n = len(order)
    side = next((s for s in _SIDES if n * s * s * _BYTES_PER_PIXEL <= room), _SIDES[-1])
    some = images(np.sort(order[:256]), side)
    largest = max(max(picture.shape[:2]) for picture in some)
    cell = min(side, -(-largest // 16) * 16)
    columns = max(1, _SHEET // cell)
    slots, sizes = np.empty(n, np.int32), np.empty((n, 2), np.uint8)
    slots[order] = np.arange(n)
    pictures = {}
    for number, start in enumerate(range(0, n, columns**2)):
        chosen = order[start : start + columns**2]
        rows = -(-len(chosen) // columns)
        sheet = np.zeros((rows * cell, columns * cell, 3), np.uint8)
        for place, (image, picture) in enumerate(zip(chosen, images(chosen, cell), strict=True)):
            h, w = picture.shape[:2]
            top, left = place // columns * cell, place % columns * cell
            # The edge goes on, so that no frame of another color is compressed with the picture.
            margins = ((0, cell - h), (0, cell - w), (0, 0))
            sheet[top : top + cell, left : left + cell] = np.pad(picture, margins, mode="edge")
            sizes[image] = w, h
        pictures[f"sheet-{number}"] = _compressed(sheet, room * len(chosen) / n)
    return {"cell": cell, "columns": columns, "slots": slots, "sizes": sizes}, pictures


def _compressed(sheet, room):
    """Returns a WebP file of at most so many bytes, or of the lowest quality."""
    for quality in _QUALITIES:
        with io.BytesIO() as file:
            Image.fromarray(sheet).save(file, "webp", quality=quality, method=3)
            if file.tell() <= room or quality == _QUALITIES[-1]:
                return file.getvalue()


def _body(title, n, remarks):
    count = f"{n:,} image{'s' * (n != 1)}"
    listed = "".join(f"<li>{page.text(remark)}</li>" for remark in remarks)
    return _BODY.format(title=page.text(title), count=count, remarks=listed)


_BODY = """
<header class="page-header">
  <div class="titles"><h1 title="{title}">{title}</h1></div>
  <div class="end">
    <button type="button" id="help" aria-haspopup="dialog">Keys and notes</button>
    <button type="button" data-theme-toggle aria-pressed="false">Dark</button>
  </div>
</header>
<main>
  <section class="stage" aria-label="Map">
    <div class="toolbar">
      <div class="grow">
        <label class="visually-hidden" for="filter">Filter by path or name</label>
        <input id="filter" type="search" placeholder="Filter by path or name" autocomplete="off"
          spellcheck="false">
      </div>
      <span id="count" class="quiet small">{count}</span>
      <button type="button" id="take" disabled title="Select the images that are shown">Select
      shown</button>
      <label><span class="wide">Color by</span>
        <select id="color" aria-label="Color by"></select></label>
      <div class="group">
        <button type="button" id="lasso" aria-pressed="false"
          title="Draw around images to select them (L)">Lasso</button>
        <button type="button" id="pictures" aria-pressed="true"
          title="Show pictures when there is room (P)">Pictures</button>
      </div>
    </div>
    <div class="canvas">
      <canvas id="map" tabindex="0" role="application" aria-describedby="map-keys"
        aria-label="Map of {count}"></canvas>
      <p id="map-keys" class="visually-hidden">Arrow keys move the map, plus and minus zoom, zero
      shows all of it, Enter opens the image nearest to the center, Escape closes it.</p>
      <div class="zoom" role="group" aria-label="Zoom">
        <button type="button" id="farther" aria-label="Zoom out" title="Zoom out (−)"
          >&minus;</button>
        <button type="button" id="closer" aria-label="Zoom in" title="Zoom in (+)"
          >+</button>
        <button type="button" id="whole" title="Show the whole map (0)">Fit</button>
      </div>
      <p id="nothing" hidden>No image fits. Press Escape to show all.</p>
      <div id="hover" hidden aria-hidden="true">
        <div id="hover-picture"></div>
        <div class="words"><div id="hover-name" class="path"></div>
          <div id="hover-class" class="quiet small"></div></div>
      </div>
    </div>
  </section>
  <aside class="panel" aria-label="Details">
    <div class="legend-box"><h2 class="visually-hidden">Colors: press to show one alone</h2>
      <ul id="legend"></ul></div>
    <div role="tablist" aria-label="Details">
      <button type="button" role="tab" id="tab-image" aria-controls="panel-image">Image</button>
      <button type="button" role="tab" id="tab-clusters" aria-controls="panel-clusters"
        >Clusters</button>
      <button type="button" role="tab" id="tab-first" aria-controls="panel-first"
        >Label first</button>
      <button type="button" role="tab" id="tab-selection" aria-controls="panel-selection"
        >Selection</button>
    </div>
    <div class="panels">
      <div role="tabpanel" id="panel-image" aria-labelledby="tab-image" tabindex="0">
        <p id="image-empty" class="empty">Click a point or a picture to see what is similar to it.
        By keyboard: move the map to it and press Enter.</p>
        <div id="image-shown" hidden>
          <div class="image-head"><div id="image-picture"></div><dl id="image-facts"></dl></div>
          <p id="image-path" class="path"></p>
          <div class="actions"><button type="button" id="image-copy">Copy path</button>
            <button type="button" id="image-show">Show on map</button></div>
          <div><h2>Most similar</h2>
            <p class="quiet small">by cosine similarity of features</p></div>
          <div id="image-neighbors" class="tiles"></div>
        </div>
      </div>
      <div role="tabpanel" id="panel-clusters" aria-labelledby="tab-clusters" tabindex="0" hidden>
        <p class="quiet small">Groups of similar images, the largest first, each with its most
        typical ones. Press a name to see it alone.</p>
        <ol id="cluster-list"></ol>
      </div>
      <div role="tabpanel" id="panel-first" aria-labelledby="tab-first" tabindex="0" hidden>
        <p class="quiet small">Typical images that together cover the map. If you can label only a
        few, label these, from the top: each adds what those before it lack.</p>
        <div class="actions">
          <label for="first-count">How many</label>
          <input id="first-count" type="number" min="1" step="1">
          <button type="button" id="first-save" class="primary">Save CSV</button>
          <button type="button" id="first-copy">Copy paths</button>
        </div>
        <div id="first-tiles" class="tiles"></div>
      </div>
      <div role="tabpanel" id="panel-selection" aria-labelledby="tab-selection" tabindex="0" hidden>
        <p id="selection-empty" class="empty">Press Lasso, or hold Shift, and draw around images to
        select them. Or filter by path, and press Select shown.</p>
        <div id="selection-shown" hidden>
          <h2 id="selection-count"></h2>
          <div class="actions">
            <button type="button" id="selection-save" class="primary">Save CSV</button>
            <button type="button" id="selection-copy">Copy paths</button>
            <button type="button" id="selection-show">Show</button>
            <button type="button" id="selection-clear">Clear</button>
          </div>
          <div id="selection-tiles" class="tiles"></div>
          <p id="selection-rest" class="quiet small"></p>
        </div>
      </div>
    </div>
  </aside>
</main>
<div id="status" class="visually-hidden" role="status" aria-live="polite"></div>
<dialog id="about" aria-labelledby="about-title">
  <section><h2 id="about-title">Keys</h2>
  <table>
    <tr><td><kbd>←</kbd> <kbd>↑</kbd> <kbd>→</kbd> <kbd>↓</kbd></td><td>Move the map; with Shift
    farther</td></tr>
    <tr><td><kbd>+</kbd> <kbd>−</kbd> <kbd>0</kbd></td><td>Zoom in, zoom out, show all</td></tr>
    <tr><td><kbd>Enter</kbd></td><td>On the map: open the image nearest to the center. In the
    filter: show what fits</td></tr>
    <tr><td><kbd>Esc</kbd></td><td>Close the image, then clear the selection, then the
    filter</td></tr>
    <tr><td><kbd>/</kbd></td><td>Type a filter</td></tr>
    <tr><td><kbd>L</kbd></td><td>Select by drawing around images; or drag with Shift</td></tr>
    <tr><td><kbd>P</kbd></td><td>Pictures or points alone</td></tr>
  </table></section>
  <section><h2>About this page</h2><ul>{remarks}</ul></section>
  <div class="actions"><button type="button" id="about-close" class="primary">Close</button></div>
</dialog>
"""
