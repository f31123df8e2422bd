"""Answers for one image: does it show the same as one or several references?

Behind `trainers.verify --reference=A.png --image=B.png`.
"""

import pathlib
import shlex

import keras
import numpy as np

from keras_bt import data, messages, workdir
from keras_bt.data.pairs import Pairs
from keras_bt.evaluation.verification import distances
from keras_bt.evaluation.whitening import Whitening
from trainers.runs import backbones, given_images, opening
from trainers.runs.fields import recorded_as_text
from trainers.runs.subject import sha256
from trainers.runs.verify_settings import EMBEDDINGS
from trainers.runs.verifying import WHITENED, default_embedding, default_figures


def run(settings):
    """Compares the image with the references by a threshold that `trainers.verify` has chosen.

    Returns the answer for the terminal.

    Raises:
        ValueError: if a file is no image, there is no threshold, or it is of another embedding.
    """
    s = settings
    file, _ = backbones.find(s.backbone)
    path = pathlib.Path(s.thresholds or default_figures(file))
    record = _figures(path, s)
    name = EMBEDDINGS.get(s.embedding) or default_embedding(record["embeddings"])
    embed = _embedding(record, name, path, file, s)
    out = s.out and _check_replaceable(messages.check_writable("--out", s.out))
    files = [s.image, *s.reference]
    flags = ["image", *["reference"] * len(s.reference)]
    prepared = record["prepared"]
    decoding = data.Decoding(**{name: prepared[name] for name in opening.DECODING})
    images = given_images.read(
        files,
        flags,
        decoding,
        _size(prepared),
        prepared["resize"],
        data.normalization(prepared["normalize"]),
    )
    embeddings = embed(images)
    count = len(s.reference)
    pairs = Pairs(np.zeros(count, int), np.arange(1, count + 1), np.zeros(count, bool))
    found = distances(embeddings, pairs)

    row = record["embeddings"][name]
    of_several = row["references"].get(str(count), {}) if count > 1 else {}
    answer = {}
    for how, distance in (("nearest", found.min()), ("mean", found.mean())):
        by = of_several.get(how, row)
        answer[how] = {
            "distance": float(distance),
            "threshold": by["threshold"],
            "accepted": bool(distance <= by["threshold"]),
            "false_accepts": by["test"]["false_accepts"],
            "false_rejects": by["test"]["false_rejects"],
        }
    if out:
        workdir.write_json(
            out,
            {
                "image": s.image,
                "references": [
                    {"file": one, "distance": float(distance)}
                    for one, distance in zip(s.reference, found, strict=True)
                ],
                "embedding": name,
                "thresholds": str(path),
                **answer,
            },
        )
    return _described(answer, s, name, count > 1 and not of_several)


def _figures(path, s):
    """Reads the figures of `trainers.verify`."""
    if not path.is_file():
        raise ValueError(
            f"There must be a threshold. Received: none, as there is no {path}; make it by: "
            f"{_command(s)}"
        )
    record = workdir.read_record(path)
    if not {"embeddings", "prepared"} <= record.keys():
        raise ValueError(
            f"--thresholds must be figures of trainers.verify. Received: {path}, of another "
            f"command; make them by: {_command(s)}"
        )
    for name, value in record["prepared"].items():
        both = getattr(s, name), value
        given, theirs = (recorded_as_text(type(s), name, one) for one in both)
        if given not in ("None", theirs):
            raise _other(path, f"{name}={theirs}", f"{name}={given}", s, f"--{name}={given}")
    return record


def _embedding(record, name, path, file, s):
    """Returns a function from images, as the network takes them, to their embeddings.

    Raises:
        ValueError: if it is not the embedding that the figures are of.
    """
    row = record["embeddings"].get(name)
    if row is None:
        known = ", ".join(key for key in EMBEDDINGS if EMBEDDINGS[key] in record["embeddings"])
        raise ValueError(
            f"--embedding must be one of those in {path}: {known}. Received: "
            f"--embedding={s.embedding}."
        )
    here = sha256(file)
    if here != row["sha256"]:
        other = pathlib.Path(row["file"])  # from which a run of trainers.siamese started
        if record["backbone_sha256"] == here:
            if not other.is_file():
                raise ValueError(
                    f"--embedding={s.embedding} takes the backbone that the run started from. "
                    f"Received: none, as there is no {other}; restore it, or leave out --embedding."
                )
            file, here = other, sha256(other)
        if here != row["sha256"]:
            raise _other(path, f"SHA-256 {row['sha256'][:12]}…", f"{file}, {here[:12]}…", s)
    prepared = record["prepared"]
    backbone = backbones.load(file, _size(prepared), 3, prepared["normalize"])
    if name != WHITENED:
        return lambda images: keras.ops.convert_to_numpy(backbone(images, training=False))
    arrays = path.with_name(row["whitening"])
    if not arrays.is_file() or sha256(arrays) != row["whitening_sha256"]:
        what = "another" if arrays.is_file() else "none"
        raise _other(path, f"the whitening in {arrays.name}", what, s)
    with np.load(arrays) as opened:
        whitening = Whitening.from_arrays(opened)
    return lambda images: whitening(keras.ops.convert_to_numpy(backbone(images, training=False)))


def _other(path, theirs, ours, s, *flags):
    return ValueError(
        f"The threshold in {path} is of another embedding: {theirs}. Received: {ours}; make one "
        f"by: {_command(s, *flags)}"
    )


def _command(s, *flags):
    """Returns the command that chooses a threshold."""
    _, of_run = backbones.find(s.backbone)
    flags += () if of_run else ("--data=SOURCE", "--image_size=PIXELS")
    return shlex.join(["python", "-m", "trainers.verify", f"--backbone={s.backbone}", *flags])


def _size(prepared):
    size = prepared["image_size"]
    return tuple(size) if isinstance(size, list) else size


def _check_replaceable(out):
    """Refuses to replace a file that is no answer."""
    if out.exists():
        try:
            answer = workdir.read_record(out)
        except ValueError:
            answer = {}
        if not {"image", "nearest", "mean"} <= answer.keys():
            raise ValueError(
                f"{out} must be new, or hold an answer of this command. Received: another file. "
                "Give another --out, or remove it."
            )
    return out


def _described(answer, s, name, of_pairs):
    """Describes the answer for the terminal; one reference is its own nearest and mean."""
    several = len(s.reference) > 1
    lines = [f"Compared by: {name}."]
    for how, found in answer.items() if several else [("nearest", answer["nearest"])]:
        other = f"{how} of {len(s.reference)} references" if several else s.reference[0]
        lines.append(
            f"{s.image}, {other}: distance {found['distance']:.4f}, threshold "
            f"{found['threshold']:.4f}: {'accepted' if found['accepted'] else 'not accepted'} "
            f"(with {100 * found['false_accepts']:.1f}% false accepts and "
            f"{100 * found['false_rejects']:.1f}% false rejects of the test images)"
        )
    if of_pairs:
        lines.append(
            f"The threshold is that of single pairs; --references={len(s.reference)} chooses one "
            "for so many references."
        )
    return "\n".join(lines)
