"""The nearest neighbors of image files, behind `trainers.search`."""

import os

import keras
import tensorflow as tf

from keras_bt import data, messages, plots
from keras_bt.data.decoding import Decoder
from keras_bt.evaluation.neighbours import nearest_neighbours
from keras_bt.evaluation.report import columns
from trainers.runs import collection, given_images, opening
from trainers.runs import subject as subjects

_PIXELS = 256  # of the longer side of a picture
_MOST_SHOWN = 20  # neighbors in a row of the picture


def run(settings):
    """Searches all images for the neighbors of each query, and draws them.

    Returns the report for the terminal.

    Raises:
        ValueError: if a query is no image, there are fewer images than neighbors, or the picture
            cannot be written.
    """
    s = settings
    out = s.out and messages.check_writable("--out", s.out)
    subject = subjects.opened(s)
    sources = [source for source in (subject.train, subject.test) if source is not None]
    total = sum(source.num_examples for source in sources)
    if s.k > total:
        raise ValueError(
            f"--k must be at most the number of images. Received: --k={s.k} for {total:,} images "
            f"of {subject.data}."
        )
    channels = subject.train.channels
    if channels != 3:
        raise ValueError(
            "--query needs a backbone of images with three channels, those of image files. "
            f"Received: {subject.data}, whose images have {channels}."
        )
    decoding = opening.decoding(s, subject.reading)
    resize = subject.resize or data.evaluation_resize(subject.train, subject.image_size)
    images = given_images.read(
        *(s.query, ["query"] * len(s.query), decoding, subject.image_size, resize),
        subject.normalization,
    )
    found = collection.read(s, subject)
    queries = keras.ops.convert_to_numpy(subject.backbone(images, training=False))
    features = found.features
    compared = "features"
    if s.whiten and found.whitening is not None:
        queries, features = found.whitening(queries), found.whitened()
        compared = "whitened features"
    # One more, as a query may be among them, which is no news.
    k = min(s.k + 1, len(found))
    similarities, indices = nearest_neighbours(features, queries, k, progress=True)
    results, lines = [], []
    for query, row, numbers in zip(s.query, similarities, indices, strict=True):
        others = [i for i, number in enumerate(numbers) if not _is(query, found.names[number])]
        itself, others = len(others) < k, others[: s.k]
        results.append((query, row[others], numbers[others]))
        lines += ["", f"Query: {messages.one_line(query)}, by cosine similarity of {compared}"]
        lines += ["It is one of the images, and left out."] * itself
        lines += _table(found, *results[-1][1:])
    if out:
        _draw(out, found, results, decoding, compared)
        lines += ["", f"The queries and their neighbors: {out}"]
    return "\n".join(lines)


def _is(query, name):
    """Tells whether a query is the image of that name."""
    try:
        return os.path.samefile(query, name)
    except OSError:  # the name of an image that is no file
        return False


def _table(found, similarities, numbers):
    """Returns lines: rank, similarity, part where there are several, path."""
    several = len(set(found.splits)) > 1
    header = ["rank", "similarity", *["part"] * several]
    cells = [header] + [
        [str(rank), f"{similarity:.3f}", *[found.splits[number]] * several]
        for rank, (similarity, number) in enumerate(zip(similarities, numbers, strict=True), 1)
    ]
    names = ["image", *(messages.one_line(found.names[number]) for number in numbers)]
    return [f"{line}  {name}" for line, name in zip(columns(cells), names, strict=True)]


def _draw(out, found, results, decoding, compared):
    decoder = Decoder("the queries", len(results), collection.upright(decoding))
    paths = tf.data.Dataset.from_tensor_slices([os.fsencode(query) for query, *_ in results])
    decoded = paths.map(
        lambda path: collection.smaller(decoder.file(path, os.curdir)[0], _PIXELS)
    ).as_numpy_iterator()
    # All at once, as opening them takes longer than reading a few.
    results = [(query, *(array[:_MOST_SHOWN] for array in row)) for query, *row in results]
    wanted = [number for _, _, numbers in results for number in numbers]
    pictures = dict(zip(wanted, found.images(wanted, _PIXELS), strict=True))
    rows = []
    for image, (query, similarities, numbers) in zip(decoded, results, strict=True):
        row = [(image, "query", messages.one_line(query))]
        for rank, number in enumerate(numbers):
            caption = f"{rank + 1}: {similarities[rank]:.3f}"
            row.append((pictures[number], caption, messages.one_line(found.names[number])))
        rows.append(row)
    title = f"Most similar of {len(found):,} images, by cosine similarity of {compared}"
    plots.picture_rows(out, rows, [""] * len(rows), title)
