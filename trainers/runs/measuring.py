"""What the commands that measure features have in common: arrays in, a JSON file out."""

import shlex
import sys
import time

from keras_bt import data, workdir


def arrays(subject, raw_pixels, batch_size=256):
    """Reads what is to be measured: "backbone" and, if wanted, "raw pixels", all held in memory.

    Returns:
        dict from these names to a list: features and labels to fit on, features and labels to
        measure on.
    """
    train, test = subject.train, subject.test
    found = {
        "backbone": [
            *subject.features(train, "training", batch_size),
            *subject.features(test, "test", batch_size),
        ]
    }
    if raw_pixels:
        with data.reading(train, test):
            found["raw pixels"] = [*data.raw_pixels(train), *data.raw_pixels(test)]
    return found


def write(path, command, subject, settings, started, **found):
    """Writes what was found as JSON; `settings` are what else determines the figures."""
    preparation = {"image_size": subject.image_size, "resize": subject.resize}
    workdir.write_json(
        path,
        {
            "command": shlex.join(["python", "-m", command, *sys.argv[1:]]),
            "backbone": str(subject.file),
            "data": subject.data,
            "measured_on": subject.where,
            "settings": settings | preparation,
            **found,
            "seconds": round(time.monotonic() - started, 1),
        },
    )
