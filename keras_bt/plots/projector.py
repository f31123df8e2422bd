"""Features for TensorBoard's embedding projector."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from keras_bt.files import whole
from keras_bt.typing import Path

_CONFIG = "projector_config.pbtxt"
_SIDE = 48  # of an image among the points, in pixels
# What would end a cell or a line of the table of labels.
_IN_ONE_CELL = str.maketrans(dict.fromkeys("\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "))


def embedding_projector(
    folder: Path,
    features: np.ndarray,
    pictures: Sequence[np.ndarray],
    names: Sequence[str],
    labels: Sequence[str] | None = None,
) -> None:
    """Writes features, names, labels and pictures where TensorBoard's projector finds them.

    Its format is that of tensorboard.plugins.projector: `projector_config.pbtxt`, in the folder of
    a run's events, names tables of features and of labels, and one image with all pictures.

    >>> pictures = np.zeros((12, 8, 8, 3), np.uint8)
    >>> embedding_projector("logs/train", features, pictures, [f"{i}.png" for i in range(12)])
    >>> sorted(path.name for path in pathlib.Path("logs/train/projector").iterdir())
    ['features.tsv', 'labels.tsv', 'pictures.png']

    Args:
        folder: folder of a run's events.
        features: floats (n, d), written to five digits.
        pictures: n images of one size, uint8 (h, w, 3).
        names: n texts, paths for example.
        labels: n texts, or None.

    Raises:
        ValueError: if there are no features, or not equally many of each.
        OSError: if a file cannot be written.
    """
    n = len(features)
    if not n or {len(pictures), len(names), n if labels is None else len(labels)} != {n}:
        raise ValueError(
            "Each feature needs a picture, a name and, if there are any, a label. Received: "
            f"{n} features, {len(pictures)} pictures, {len(names)} names"
            + ("." if labels is None else f", {len(labels)} labels.")
        )
    folder = pathlib.Path(folder)
    parts = folder / "projector"
    rows = ("\t".join(map("{:.5g}".format, row)) for row in np.asarray(features).tolist())
    _write_lines(parts / "features.tsv", rows)
    cells = [[_cell(name) for name in names]]
    if labels is not None:
        # Only a table of several columns has a head.
        cells = [["label", *map(_cell, labels)], ["name", *cells[0]]]
    _write_lines(parts / "labels.tsv", map("\t".join, zip(*cells, strict=True)))
    small = [_small(picture) for picture in pictures]
    with whole(parts / "pictures.png") as partial:
        _side_by_side(small).save(partial)
    height, width = small[0].shape[:2]
    config = f"""embeddings {{
  tensor_name: "features"
  tensor_path: "{parts.name}/features.tsv"
  metadata_path: "{parts.name}/labels.tsv"
  sprite {{
    image_path: "{parts.name}/pictures.png"
    single_image_dim: {width}
    single_image_dim: {height}
  }}
}}
"""
    _write_lines(folder / _CONFIG, [config.rstrip("\n")])  # last: it names the others


def _write_lines(path, lines):
    with whole(path) as partial, partial.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(f"{line}\n" for line in lines)


def _cell(text):
    # A line without anything visible is passed over, and all labels after it would move up.
    return str(text).translate(_IN_ONE_CELL).strip() or "(empty)"


def _small(picture):
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


def _side_by_side(pictures):
    """Joins pictures of one size to a square of rows, as the projector cuts them out again."""
    n, (height, width, channels) = len(pictures), pictures[0].shape
    columns = int(np.ceil(np.sqrt(n)))
    joined = np.zeros((columns * columns, height, width, channels), np.uint8)
    joined[:n] = pictures
    rows = joined.reshape(columns, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(rows.reshape(columns * height, columns * width, channels))
