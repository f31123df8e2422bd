"""The images that a run could not read: a list in its workdir and a line in the terminal."""

import contextlib
import pathlib

from keras_bt import data
from keras_bt.files import whole

FILE = "skipped_images.txt"
_IN_ONE_LINE = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def write(folder, *sources, worker=0):
    """Adds the unreadable images found so far to the list; a continued run keeps the earlier ones.

    There is no file until there is such an image. Workers other than the first have files of their
    own, which the first merges into its list.

    Returns:
        Sorted list of lines: name of the source, name of the image and reason, separated by tabs.
    """
    path = pathlib.Path(folder) / (f"skipped_images.worker{worker}.txt" if worker else FILE)
    known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    found = {
        "\t".join(part.translate(_IN_ONE_LINE) for part in (source.name, name, reason))
        for source in sources
        for name, reason in source.unreadable.reasons.items()
    }
    if worker == 0:
        for other in path.parent.glob("skipped_images.worker*.txt"):
            found |= set(other.read_text(encoding="utf-8").splitlines())
    lines = sorted(known | found)
    if found - known:
        with whole(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return lines


@contextlib.contextmanager
def noted(folder, *sources, worker=0):
    """Lists the images that cannot be read inside this context, even if they end the run."""
    try:
        with data.reading(*sources):
            yield
    finally:  # last, as images are still being read until the error has named them
        write(folder, *sources, worker=worker)


def closing_lines(folder, lines):
    """Returns the lines about them for the end of a run; none if all images could be read."""
    if not lines:
        return []
    images = "1 image" if len(lines) == 1 else f"{len(lines):,} images"
    path = pathlib.Path(folder) / FILE
    return [f"Skipped {images} that could not be read; {path} lists them with the reasons."]
