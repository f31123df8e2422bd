"""What the commands that measure features have in common: arrays in, a JSON file out."""

import hashlib
import pathlib
import re
import shlex
import sys
import time

from keras_bt import data, workdir

_LONGEST = 60  # bytes of a value in the name of a file, which has at most 255


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


def differences(subject, settings, names):
    """Returns what sets a result apart from the one that the command gives by default.

    Args:
        subject: `trainers.runs.subject.Subject`; data and preprocessing differ from those of the
            backbone's run, if it has one.
        settings: the command's.
        names: those of its settings on which figures depend.

    Returns:
        dict from name to value.
    """
    defaults = type(settings)()
    asked = {name: getattr(settings, name) for name in names}
    changed = {n: value for n, value in asked.items() if value != getattr(defaults, n)}
    return subject.differences() | changed


def suffix(differences):
    """Returns what makes a name of its own for a result: what sets it apart, readably.

    >>> suffix({"data": "folder:my photos", "seed": 1, "raw_pixels": True, "k": (5, 10)})
    '_data=folder_my_photos_seed=1_raw_pixels_k=5,10'
    >>> suffix({"data": f"folder:/home/{'a' * 50}/photos"})
    '_data=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa_photos-9bb26a1c'
    """
    parts = []
    for name, value in differences.items():
        if isinstance(value, (tuple, list)):
            value = ",".join(map(str, value))
        text = re.sub(r"[^\w.,%-]+", "_", str(value)).strip("_").replace("%", "pct")
        if len(text.encode()) > _LONGEST:
            end = text.encode()[9 - _LONGEST :].decode(errors="ignore")  # where paths differ
            text = f"{end.lstrip('_.-')}-{_mark(value)}"
        parts.append(f"_{name}" if value is True else f"_{name}={text}")
    whole = "".join(parts)
    if len(whole.encode()) > 3 * _LONGEST:
        whole = f"{whole.encode()[: 3 * _LONGEST - 9].decode(errors='ignore')}-{_mark(whole)}"
    return whole


def _mark(value):
    return hashlib.sha256(str(value).encode()).hexdigest()[:8]


def record(subject, settings, names):
    """Returns all that figures depend on, for the file that holds them."""
    what = subject.identity()
    return {
        "backbone": str(subject.file),
        "backbone_sha256": what.pop("backbone_sha256"),
        "data": what.pop("data"),
        "settings": {name: _as_json(getattr(settings, name)) for name in names} | what,
    }


def check_replaceable(path, record, flag):
    """Refuses to replace a file that holds other figures than these.

    Args:
        path: the file.
        record: what `record` returned.
        flag: by which another file can be chosen.

    Raises:
        ValueError: if it was made with other settings, or is something else.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return
    try:
        theirs = workdir.read_record(path)
        there = {"data": theirs["data"], **theirs["settings"]}
        # The backbone may have been trained anew, or its folder been moved.
        same = theirs.get("backbone_sha256") in (None, record["backbone_sha256"])
        if not same and theirs["backbone"] != record["backbone"]:
            there["backbone"] = theirs["backbone"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be new, or hold figures of this command. Received: another file. Give "
            f"another {flag}, or remove it."
        ) from error
    here = {"data": record["data"], "backbone": record["backbone"], **record["settings"]}
    for name in sorted(there.keys() & here.keys()):
        if there[name] != here[name]:
            raise ValueError(
                f"{path} holds figures made with {name}={there[name]}. Received: "
                f"{name}={here[name]}. Give another {flag}, or remove it."
            )


def write(path, command, subject, record, differences, started, **found):
    """Writes what was found as JSON, with what it is about and what sets it apart."""
    workdir.write_record(
        path,
        {
            "command": shlex.join(["python", "-m", command, *sys.argv[1:]]),
            **record,
            "differs_in": {name: _as_json(value) for name, value in differences.items()},
            "measured_on": subject.where,
            **found,
            "seconds": round(time.monotonic() - started, 1),
        },
    )


def _as_json(value):
    return list(value) if isinstance(value, tuple) else value
