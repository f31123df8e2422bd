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
    by_class = np.argsort(labels, kind="stable")
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) < 2 or sizes.max() < 2:
        raise DataError(
            "Pairs need images of two classes or more, and two images of one of them. Received: "
            f"{len(labels):,} images of {len(sizes)} class{'es' if len(sizes) > 1 else ''}."
        )
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
