"""Pairs of images that show the same thing, or different things."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_bt.data.decoding import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of the images of a source.

    Attributes:
        first: int64 (n,), the number of one image of each pair.
        second: int64 (n,), the number of the other.
        same: bool (n,), whether both show the same thing.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray

    def __len__(self) -> int:
        """Returns n."""
        return len(self.same)

    def __getitem__(self, which: np.ndarray | slice) -> "Pairs":
        """Returns some of the pairs, which an index array, a mask or a slice names."""
        return Pairs(self.first[which], self.second[which], self.same[which])

    def among(self, numbers: Sequence[int] | np.ndarray) -> "Pairs":
        """Leaves out pairs with an image that is not among some, those that can be read, say.

        >>> pairs = Pairs(np.array([5, 1, 7]), np.array([7, 5, 6]), np.array([True, True, False]))
        >>> pairs.among([5, 6, 7])
        Pairs(first=array([0, 2]), second=array([2, 1]), same=array([ True, False]))

        Args:
            numbers: (m,), the numbers of these images, each once.

        Returns:
            The other pairs, of places in `numbers`.
        """
        numbers = np.asarray(numbers, np.int64)
        place = np.full(
            1 + max(0, *(x.max(initial=0) for x in (numbers, self.first, self.second))), -1
        )
        place[numbers] = np.arange(len(numbers))
        first, second = place[self.first], place[self.second]
        return Pairs(first, second, self.same)[(first >= 0) & (second >= 0)]


def draw_pairs(labels: Sequence[int] | np.ndarray, count: int, seed: int | Sequence[int]) -> Pairs:
    """Draws pairs of images, half of them of one class and half of two, in random order.

    Every image is the first of as many pairs of either half as any other, give or take one; the
    second is drawn from the other images of its class, or from all images of other classes. An
    image that is alone in its class is in no pair of one class.

    >>> pairs = draw_pairs([0, 0, 0, 1, 1, 1, 2], count=6, seed=0)
    >>> np.sort(pairs.same), bool((pairs.first == pairs.second).any())
    (array([False, False, False,  True,  True,  True]), False)

    Args:
        labels: (images,), the class of each image.
        count: number of pairs, ≥ 2; if odd, there is one more of two classes.
        seed: one integer or several, such as (seed, epoch).

    Returns:
        The pairs.

    Raises:
        DataError: if there is only one class, no class has two images, or count is too small.
    """
    labels = np.asarray(labels)
    if count < 2:
        raise DataError(f"There must be at least two pairs. Received: {count}.")
    random = np.random.default_rng(seed)
    by_class, classes, sizes = _checked(labels)
    ends = np.cumsum(sizes)
    start, size = (ends - sizes)[classes], sizes[classes]  # of each image's class in `by_class`
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels))

    def evenly(images, number):
        times = -(-number // len(images))
        return np.concatenate([random.permutation(images) for _ in range(times)])[:number]

    alike = evenly(np.flatnonzero(size > 1), count // 2)
    unlike = evenly(np.arange(len(labels)), count - count // 2)
    # Steps around the circle of a class never come back to the image; those around the circle of
    # all images that begin behind its class never meet the class.
    steps = 1 + random.integers(size[alike] - 1)
    others = start[alike] + (place[alike] - start[alike] + steps) % size[alike]
    steps = random.integers(len(labels) - size[unlike])
    strangers = (start[unlike] + size[unlike] + steps) % len(labels)
    order = random.permutation(count)
    return Pairs(
        np.concatenate([alike, unlike])[order],
        by_class[np.concatenate([others, strangers])][order],
        (np.arange(count) < len(alike))[order],
    )


def distinct_pairs(
    labels: Sequence[int] | np.ndarray, count: int, seed: int | Sequence[int]
) -> Pairs:
    """Draws pairs of images as `draw_pairs` does, but no two of the same two images.

    All pairs of either kind are equally likely, so that the images of large classes are in more
    pairs of one class than others.

    >>> pairs = distinct_pairs([0, 0, 0, 1], count=6, seed=0)  # all that there are
    >>> sorted(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()))
    [(0, 1, True), (0, 2, True), (0, 3, False), (1, 2, True), (1, 3, False), (2, 3, False)]

    Args:
        labels: (images,), the class of each image.
        count: number of pairs; if odd, there is one more of two classes.
        seed: one integer or several.

    Returns:
        The pairs.

    Raises:
        DataError: if there is only one class or no class has two images.
        ValueError: if there are fewer pairs of either kind.
    """
    labels = np.asarray(labels)
    random = np.random.default_rng(seed)
    by_class, classes, sizes = _checked(labels)
    place, end = np.arange(len(labels)), np.cumsum(sizes)[classes[by_class]]

    def some(partners, begin, number):
        # The pairs of the first image in `by_class` come first, then those of the next, each with
        # so many partners in a row: a pair is a number, and none needs to be kept.
        until = np.cumsum(partners)
        chosen = random.choice(until[-1], number, replace=False)
        first = np.searchsorted(until, chosen, side="right")
        return first, begin[first] + chosen - (until - partners)[first]

    alike = some(end - 1 - place, place + 1, count // 2)
    unlike = some(len(labels) - end, end, count - count // 2)
    order = random.permutation(count)
    first, second = (
        by_class[np.concatenate(side)][order] for side in zip(alike, unlike, strict=True)
    )
    return Pairs(first, second, (np.arange(count) < count // 2)[order])


def _checked(labels):
    """Returns images by class, and of the classes: that of each image, and the sizes."""
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) < 2 or sizes.max() < 2:
        raise DataError(
            "Pairs need images of two classes or more, and two images of one of them. Received: "
            f"{len(labels):,} images of {len(sizes)} class{'es' if len(sizes) > 1 else ''}."
        )
    return np.argsort(labels, kind="stable"), classes, sizes
