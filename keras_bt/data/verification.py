"""The parts of an experiment with pairs: to train on, to choose a threshold by, to judge on."""

import dataclasses
import difflib

import numpy as np

from keras_bt.data.decoding import DataError
from keras_bt.data.file_sets import images, listed
from keras_bt.data.fingerprint import fingerprint
from keras_bt.data.pairs import Pairs, distinct_pairs, draw_pairs
from keras_bt.data.sources import Source
from keras_bt.data.subsets import labelled_subset

PAIRS = 20_000
_VALIDATION = 5  # one image, or pair of a file, in this many


@dataclasses.dataclass(frozen=True, eq=False)
class PairedPart:
    """Images, and pairs of them.

    Attributes:
        source: the images.
        pairs: pairs of their numbers; None for pairs to be drawn from the labels in each epoch.
    """

    source: Source
    pairs: Pairs | None

    @property
    def num_examples(self) -> int:
        """The number of images."""
        return self.source.num_examples

    def identity(self) -> str:
        """Returns 64 hexadecimal digits by which images and pairs are found again."""
        pairs = self.pairs
        numbers = None if pairs is None else [pairs.first, pairs.second, pairs.same]
        return fingerprint(self.source.identity(), numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class PairedParts:
    """Three parts of the data.

    Attributes:
        train: what is trained on.
        validation: what the threshold is chosen by; its pairs are given.
        test: what is judged on; its pairs are given.
        where: description of what is judged on, for messages.
        remarks: lines of text that the user should know.
    """

    train: PairedPart
    validation: PairedPart
    test: PairedPart
    where: str
    remarks: tuple[str, ...] = ()


def paired_parts(
    train: Source,
    test: Source | None = None,
    unseen: str | None = None,
    labels: str = "100%",
    seed: int = 0,
    pairs: int = PAIRS,
) -> PairedParts:
    """Divides the data such that pairs are judged of classes that were never trained on.

    Of labeled images some classes are held out whole: what is judged on are their images, from the
    test source if there is one. Of the training images of all other classes a fifth is held out, at
    random, to choose the threshold by; of the rest, `labels` are trained on.

    Sources with `pairs`, which `pairs:FILE` opens, are divided already. Where the file has no
    validation pairs, a fifth of its training pairs take their place, and where it has no test
    pairs, the validation pairs do.

    Args:
        train: the images to train on.
        test: the images to judge on, or None.
        unseen: the classes to hold out: how many, drawn by the seed, or their names, joined by
            commas. By default a third of all, at least two.
        labels: labels to train with, a share or a number as in `labelled_subset`.
        seed: seed of all draws.
        pairs: number of validation and of test pairs, half of them of one class; fewer if there
            are not as many. No two are the same where these are more than half of all. Those of a
            file are all taken.

    Returns:
        The parts.

    Raises:
        DataError: if the images have neither pairs nor one label each; if there are too few
            classes, images or pairs, or no such classes; or if `unseen` or `labels` is given for
            the pairs of a file.

    Example:
        >>> train, test = keras_bt.data.open_source("digits")
        >>> parts = paired_parts(train, test, unseen="7,8,9", labels="70", seed=0)
        >>> [part.num_examples for part in (parts.train, parts.validation, parts.test)]
        [70, 182, 146]
        >>> len(parts.test.pairs), int(parts.test.pairs.same.sum())
        (6970, 3485)
    """
    if train.pairs is not None:
        return _of_a_file(train, test, unseen, labels, seed)
    for source in (train, test):
        if source is not None and source.multilabel:
            raise DataError(
                "Pairs are drawn by class and need images with one label each. "
                f"Received: {source.name}, whose images have several."
            )
    classes = train.labels()
    held_out = _held_out(train, unseen, seed)
    judged = train if test is None else test
    judged = judged.subset(np.flatnonzero(np.isin(judged.labels(), held_out)))

    kept = np.flatnonzero(~np.isin(classes, held_out))
    order = np.random.default_rng((seed, 1)).permutation(kept)
    fifth = len(order) // _VALIDATION
    validation = train.subset(np.sort(order[:fifth]))
    rest = labelled_subset(train.subset(np.sort(order[fifth:])), labels, seed)
    _drawn(rest, 2, seed, "to train on")  # before anything is trained

    names = listed((str((train.class_names or ())[c]) for c in held_out), 10)
    of_training = ""
    if test is None:
        of_training = (
            " (training images, as there is no test set: held out from these pairs, but not from "
            "the pretraining of a backbone)"
        )
    return PairedParts(
        PairedPart(rest, None),
        PairedPart(validation, _drawn(validation, pairs, (seed, 2), "to choose the threshold by")),
        PairedPart(judged, _drawn(judged, pairs, (seed, 3), "to judge on")),
        f"{images(judged.num_examples)} of {len(held_out)} classes that were not trained on: "
        f"{names}{of_training}",
        train.remarks if test is None else train.remarks + test.remarks,
    )


def _held_out(train, unseen, seed):
    """Returns the numbers of the classes that are held out, sorted."""
    present = np.unique(train.labels())
    names = {train.class_names[number]: number for number in present}
    most = len(present) - 2
    if most < 2:
        raise DataError(
            "Four classes are needed at least, two to train on and two that are held out. "
            f"Received: {len(present)} in {train.name}."
        )
    unseen = str(max(2, len(present) // 3)) if unseen is None else unseen
    if unseen.isdecimal():
        number = int(unseen)
        chosen = np.random.default_rng((seed, 0)).permutation(present)[:number]
    else:
        wanted = [name.strip() for name in unseen.split(",")]
        for name in wanted:
            if name not in names:
                near = difflib.get_close_matches(name, list(names), 1) or [listed(names, 10)]
                raise DataError(
                    f"unseen must be a number of classes, or names of classes: {near[0]}. "
                    f"Received: {name or 'an empty name'}, which is none in {train.name}."
                )
        chosen = np.array([names[name] for name in dict.fromkeys(wanted)])
        number = len(chosen)
    if not 2 <= number <= most:
        raise DataError(
            f"unseen must be at least two classes, and leave two of the {len(present)} to train "
            f"on. Received: unseen={unseen}."
        )
    return np.sort(chosen)


def _drawn(source, most, seed, purpose):
    """Draws pairs, at most as many as there are, and none twice where there are few."""
    labels = source.labels()
    _, sizes = np.unique(labels, return_counts=True)
    alike = int(np.sum(sizes * (sizes - 1) // 2))
    unlike = len(labels) * (len(labels) - 1) // 2 - alike
    count = max(2, min(most, 2 * min(alike, unlike)))
    # Of more than half of all pairs, many would be drawn again.
    draw = (
        distinct_pairs if count // 2 > alike / 2 or count - count // 2 > unlike / 2 else draw_pairs
    )
    try:
        return draw(labels, count, seed)
    except DataError as error:
        raise DataError(f"Of the images {purpose}: {error}") from error


def _of_a_file(train, test, unseen, labels, seed):
    if unseen is not None or labels != "100%":
        given = f"unseen={unseen}" if unseen is not None else f"labels={labels}"
        raise DataError(
            "Pairs of a file are divided by its column split, and all are used: there are no "
            f"classes to draw from. Received: {given} for {train.name}."
        )
    if test is not None and test.pairs is None:
        raise DataError(f"The test images must have pairs, too. Received: {test.name}.")
    fitted, remarks = PairedPart(train, train.pairs), []
    if train.validation is not None:
        validation = PairedPart(train.validation, train.validation.pairs)
    else:
        held_out = _a_fifth(train, seed)
        fitted = PairedPart(train, train.pairs[~held_out])
        validation = PairedPart(train, train.pairs[held_out])
        remarks.append(
            f"{held_out.sum():,} of the training pairs are held out as validation pairs, as there "
            "are none."
        )
        seen, of_held_out = (
            np.unique([pairs.first, pairs.second])
            for pairs in (train.pairs[~held_out], train.pairs[held_out])
        )
        if again := np.isin(of_held_out, seen).sum():
            remarks.append(
                f"{again:,} of their {images(len(of_held_out))} are in training pairs, too: what "
                "is measured on them flatters."
            )
    if test is not None:
        judged, where = PairedPart(test, test.pairs), f"the test pairs of {train.name}"
    else:
        judged, where = validation, "the validation pairs, by which the threshold is chosen"
        remarks.append("There are no test pairs: what is measured on validation pairs flatters.")
    return PairedParts(fitted, validation, judged, where, tuple(remarks))


def _a_fifth(source, seed):
    """Chooses a fifth of the pairs of the same thing, and of those of different things: a mask.

    Rows of the same two images stay together.
    """
    same = source.pairs.same
    sides = np.sort([source.pairs.first, source.pairs.second], axis=0)
    _, once, of_row = np.unique(sides, axis=1, return_index=True, return_inverse=True)
    row = once[of_row]  # the first with the same two images
    random, chosen = np.random.default_rng((seed, 1)), np.zeros(len(same), bool)
    for kind in (True, False):
        of_kind = random.permutation(np.unique(row[same == kind]))
        if len(of_kind) < 2:
            raise DataError(
                "Two pairs of the same thing and two of different things are needed, as some are "
                f"held out as validation pairs. Received: {len(of_kind)} of one kind in "
                f"{source.name}."
            )
        chosen |= np.isin(row, of_kind[: max(1, len(of_kind) // _VALIDATION)])
    return chosen
