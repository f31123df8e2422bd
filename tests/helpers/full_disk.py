"""A disk that is full: the system refuses to let files grow beyond a size."""

import contextlib
import resource


@contextlib.contextmanager
def file_size_limit(size=None):
    """Limits how large files may become, at once or when the function it gives is called."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    if size is not None:
        limit(size)
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
