"""Noise in place of pictures, for runs that do not test theirs: to draw takes as long as a run."""

import contextlib
from unittest import mock

from matplotlib.figure import Figure
from PIL import Image

from trainers.runs import exporting


def pictures():
    """A context in which every figure is saved as 50 kB of noise."""

    def save(figure, file, **_):
        Image.effect_noise((256, 256), 64).save(file, "PNG")

    return mock.patch.object(Figure, "savefig", save)


@contextlib.contextmanager
def runs():
    """A context in which runs neither draw nor export: one that does both is enough."""
    with pictures(), mock.patch.object(exporting, "export"):
        yield
