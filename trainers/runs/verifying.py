"""Verification figures of a backbone's embeddings, behind `trainers.verify`."""

import dataclasses
import pathlib
import shlex

import numpy as np

from keras_bt import data, messages, workdir
from keras_bt.data.pairs import Pairs
from keras_bt.evaluation.verification import (
    choose_threshold,
    distances,
    reference_distances,
    verify,
)
from keras_bt.evaluation.whitening import Whitening, too_wide
from keras_bt.files import whole
from trainers.runs import backbones, measuring, subject, verifying_report
from trainers.runs.verify_settings import EMBEDDINGS

FIGURES_DEPEND_ON = ("unseen", "labels", "pairs", "references", "raw_pixels", "seed")
BACKBONE, WHITENED, TRAINED = EMBEDDINGS.values()
PIXELS = "raw pixels"


def run(settings, started):
    """Extracts embeddings or reads those on disk, compares pairs of them and writes the figures.

    Returns the report for the terminal.

    Raises:
        ValueError: if there are no pairs of both kinds, or the results cannot be written.
    """
    s = subject.of_the_run(settings)
    what, parts = subject.read_pairs(s)
    differences = measuring.differences(what, settings, FIGURES_DEPEND_ON)
    name = f"verify{measuring.suffix(differences)}.json"
    out = messages.check_writable("--out", s.out or what.folder / "evaluation" / name)
    record = measuring.record(what, s, FIGURES_DEPEND_ON)
    measuring.check_replaceable(out, record, "--out")
    print(what)
    print("".join(f"  {remark}\n" for remark in parts.remarks), end="")
    # One resizing for all parts, so that an image that comes alone is prepared as these are.
    resize = what.resize or data.evaluation_resize(parts.train.source, what.image_size)
    what = dataclasses.replace(what, resize=resize)
    validation, test = (
        Judged.of(what, part, name, s.batch_size)
        for part, name in ((parts.validation, "validation"), (parts.test, "test"))
    )
    references = _possible(s.references, validation, test)
    found, compared = {}, {}
    for name, embeddings, file, whitening in _embeddings(what, parts, validation, test, s):
        found[name], compared[name] = _figures(embeddings, validation, test, references, s.seed)
        if file is not None:
            found[name] |= {"file": str(file.resolve()), "sha256": subject.sha256(file)}
        if whitening is not None:
            found[name] |= _written(whitening, out)
    measuring.write(
        out,
        "trainers.verify",
        what,
        record,
        differences,
        started,
        prepared=prepared(what),
        embeddings=found,
    )
    pictures = verifying_report.draw(out, what, test, compared, default_embedding(found))
    report = verifying_report.table(found, what.where, len(validation.pairs))
    flags = [f"--backbone={s.backbone}"]
    flags += [f"--thresholds={out}"] * (out != default_figures(what.file))
    flags += ["--reference=A.png", "--image=B.png"]
    return "\n".join(
        [
            *report,
            f"\nWritten to {', '.join(map(str, [out, *pictures]))}.",
            f"For one pair: {shlex.join(['python', '-m', 'trainers.verify', *flags])}",
        ]
    )


def default_embedding(figures):
    """Returns the name of the embedding that is looked at more closely unless another is chosen."""
    return TRAINED if TRAINED in figures else BACKBONE


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Images that can be read, and pairs of them.

    Attributes:
        source: `keras_bt.data.Source` of these and of those that cannot.
        numbers: (n,), the number of each image in the source.
        pairs: `keras_bt.data.Pairs` of these n images.
        labels: (n,), or None without labels.
        name: "validation" or "test".
    """

    source: data.Source
    numbers: np.ndarray
    pairs: Pairs
    labels: np.ndarray | None
    name: str

    @classmethod
    def of(cls, what, part, name, batch_size):
        """Leaves out what cannot be read of a `keras_bt.data.PairedPart`."""
        source, pairs = part.source, part.pairs
        features, labels = what.features(source, name, batch_size)
        numbers = _readable(source, len(features))
        labels = None if source.class_names is None else labels
        return cls(source, numbers, pairs.among(numbers), labels, name)

    def images(self, what, numbers):
        """Returns some of the n images, as cropped for the network: number → (h, w, c), 0 to 1."""
        wanted = np.unique(numbers)
        mean, std = data.normalization("none", self.source.channels)
        part = self.source.subset(self.numbers[wanted])
        batches = data.evaluation_batches(
            part, what.image_size, 256, what.resize, mean=mean, std=std
        )
        cropped = np.concatenate([images for images, _ in batches.as_numpy_iterator()])
        return dict(zip(wanted.tolist(), np.clip(cropped, 0, 1), strict=True))


def _readable(source, count):
    """Returns the numbers of those images of a source that can be read, `count` in all."""
    if count == source.num_examples:
        return np.arange(count)
    images = source.in_order().map(lambda *image: source.decode(*image, stop=False)[1])
    return np.flatnonzero(list(images.as_numpy_iterator()))


def _possible(references, validation, test):
    """Returns the numbers of references for which there are enough images of two classes."""
    if validation.labels is None or test.labels is None:
        return ()
    # Of each part, the second largest class must have another image.
    most = min(np.sort(np.bincount(one.labels))[-2] for one in (validation, test)) - 1
    for k in references:
        if k > most:
            print(f"Not compared with {k} references of each class: there are too few images.")
    return tuple(k for k in references if k <= most)


def _embeddings(what, parts, validation, test, s):
    """Yields (name, embeddings of the validation and of the test images, file, whitening)."""
    judged = (validation, test)

    def features(of, source, name):
        return of.features(source, name, s.batch_size)[0]

    if s.raw_pixels:
        with data.reading(*(one.source for one in judged)):
            yield PIXELS, [data.raw_pixels(one.source)[0] for one in judged], None, None
    trained = "unseen" in backbones.find(s.backbone)[1]
    plain = started_from(what) if trained else what
    if plain is not None:
        embeddings = [features(plain, one.source, one.name) for one in judged]
        yield BACKBONE, embeddings, plain.file, None
        fitted = features(plain, parts.train.source, "training")
        if (pairs := parts.train.pairs) is not None:  # others are of validation pairs alone
            numbers = _readable(parts.train.source, len(fitted))
            fitted = fitted[np.isin(numbers, [pairs.first, pairs.second])]
        if too_wide(fitted):
            print(f"Not whitened: features of {fitted.shape[1]:,} dimensions take minutes.")
        else:
            whitening = Whitening.fit(fitted)
            yield WHITENED, [whitening(one) for one in embeddings], plain.file, whitening
    if trained:
        yield TRAINED, [features(what, one.source, one.name) for one in judged], what.file, None


def started_from(what):
    """Returns the `Subject` with the backbone from which a run of `trainers.siamese` started.

    None if it started from random weights, or the file is gone or another.
    """
    run = workdir.Workdir(what.folder)
    name, settings = run.read_summary().get("backbone"), run.read_settings()
    if not name or settings.get("from_scratch"):
        return None
    file = pathlib.Path(name)
    if not file.is_file():
        print(f"Not compared: the backbone that the run started from, as there is no {name}.")
        return None
    if subject.sha256(file) != settings.get("backbone_sha256"):
        print(f"Not compared: the backbone that the run started from, as {name} has changed since.")
        return None
    channels, normalize = what.train.channels, what.reading["normalize"]
    backbone = backbones.load(file, what.image_size, channels, normalize)
    return dataclasses.replace(what, backbone=backbone, file=file)


def _figures(embeddings, validation, test, references, seed):
    """Returns the figures of an embedding as JSON values, and (distances, same, threshold)."""
    judged = (validation, test)
    pairs = [
        (distances(of, one.pairs), one.pairs.same)
        for of, one in zip(embeddings, judged, strict=True)
    ]
    chosen, measured = _judge(*pairs)
    found = {"features": embeddings[0].shape[1], **measured, "references": {}}
    for k in references:
        *compared, same = zip(
            *(
                reference_distances(of, one.labels, k, seed)
                for of, one in zip(embeddings, judged, strict=True)
            ),
            strict=True,
        )
        found["references"][str(k)] = {
            how: _judge(*zip(of_how, same, strict=True))[1]
            for how, of_how in zip(("nearest", "mean"), compared, strict=True)
        }
    return found, (*pairs[1], chosen)


def _judge(on_validation, on_test):
    """Returns the threshold that the first choose, and figures of both, of (distances, same)."""
    threshold = choose_threshold(*on_validation)
    return threshold, {
        "threshold": threshold,
        "validation": dataclasses.asdict(verify(*on_validation, threshold)),
        "test": dataclasses.asdict(verify(*on_test, threshold)),
    }


def _written(whitening, out):
    """Writes a whitening beside the figures, and returns by what it is found again."""
    path = out.with_name(f"{out.stem}_whitening.npz")
    with whole(path) as partial:
        np.savez(partial, **whitening.arrays())
    return {"whitening": path.name, "whitening_sha256": subject.sha256(path)}


def default_figures(file):
    """Returns where the figures of a backbone's file are by default."""
    return file.parent / "evaluation" / "verify.json"


def prepared(what):
    """Returns how images become what the network is given, as JSON values by name."""
    size = list(what.image_size) if isinstance(what.image_size, tuple) else what.image_size
    names = ("background", "exif", "max_pixels", "normalize")
    reading = {name: what.reading[name] for name in names}
    return {"image_size": size, "resize": what.resize, **reading}
