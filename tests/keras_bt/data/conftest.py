import functools

import numbered_images
import pytest
from numbered_images import PER_CLASS, png
from tiny_imagenet import write_archives


@pytest.fixture(scope="session")
def imagenet_dir(tmp_path_factory):
    """ImageNet in small, in the official archives: `numbered_images`, and 5 to measure on."""
    folder = tmp_path_factory.mktemp("tfds")
    train = [
        [png(10 * n, (20 + n, 30)) for n in range(PER_CLASS * label, PER_CLASS * (label + 1))]
        for label in range(3)
    ]
    test = [png(200 + n, (20, 30)) for n in range(1, 6)]
    write_archives(folder, train, test, test[:2])
    return str(folder)


@pytest.fixture
def make_source(tmp_path, request):
    """Makes `numbered_images` of a kind."""

    def make(kind, **options):
        records = lambda: request.getfixturevalue("imagenet_dir")  # noqa: E731
        return numbered_images.make(kind, tmp_path, records, **options)

    return make


@pytest.fixture(scope="session")
def source_of(tmp_path_factory, request):
    """Returns `numbered_images` of a kind: one source for all tests, which leave it as it is."""

    def make(kind):
        records = lambda: request.getfixturevalue("imagenet_dir")  # noqa: E731
        return numbered_images.make(kind, tmp_path_factory.mktemp("images"), records)

    return functools.cache(make)
