"""Cuts in the graph of a functional model: where they are possible, and which save most memory."""

import math
from collections.abc import Iterator, Sequence

import keras

from keras_bt.typing import Tensor

_UNKNOWN_SIDE = 224  # assumed where the model leaves a height or width open


def is_chain(model: object) -> bool:
    """Returns whether calling `model` only runs a graph from one input to one output."""
    return (
        isinstance(model, keras.Model)
        and type(model).call.__module__.startswith("keras.")  # not a user-defined `call`
        and len(getattr(model, "inputs", None) or ()) == 1
        and len(getattr(model, "outputs", None) or ()) == 1
    )


def pieces_of(model: keras.Model) -> Iterator[keras.Function]:
    """Cuts a model wherever everything that follows depends on a single tensor.

    Yields:
        Functions from each such tensor to the next, from the input to the output. Models within
        the model are cut too.
    """
    by_depth = keras.Function(model.inputs, model.outputs)._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    nodes = [node for node in nodes if not node.is_input]  # in topological order
    last_use = {id(t): i for i, node in enumerate(nodes) for t in node.input_tensors}
    last_use[id(model.outputs[0])] = len(nodes)

    start, inside = model.inputs[0], 0
    needed: dict[int, Tensor] = {}
    for i, node in enumerate(nodes):
        inside += 1
        needed |= {id(t): t for t in node.outputs}
        needed = {key: t for key, t in needed.items() if last_use.get(key, -1) > i}
        if len(needed) > 1 or last_use.get(id(start), -1) > i:
            continue
        (end,) = needed.values()
        if inside == 1 and is_chain(node.operation):
            yield from pieces_of(node.operation)
        else:
            yield keras.Function(start, end)
        start, needed, inside = end, {}, 0


def sizes(model: keras.Model, pieces: Sequence[keras.Function]) -> tuple[list[int], list[int]]:
    """Measures what pieces pass on and hold, in elements per image.

    Returns:
        Two lists: the sizes of the tensors between pieces, including the input and the output;
        and, for each piece, the total size of the tensors that it computes.
    """
    shape = [None, *(side or _UNKNOWN_SIDE for side in model.inputs[0].shape[1:])]
    x = keras.KerasTensor(shape, model.inputs[0].dtype)
    passed, held = [_elements(x)], []
    for piece in pieces:
        computed = [t for op in piece.operations for t in _outputs(piece, op)]
        *inner, x = keras.Function(
            piece.inputs[0], [*computed, piece.outputs[0]]
        ).compute_output_spec(x)
        passed.append(_elements(x))
        held.append(sum(map(_elements, inner)))
    return passed, held


def _outputs(piece, operation):
    nodes = [node for nodes in piece._nodes_by_depth.values() for node in nodes]
    return [t for n in nodes if n.operation is operation and not n.is_input for t in n.outputs]


def _elements(tensor):
    return math.prod(side or 1 for side in tensor.shape[1:])


def segments_of_least_peak(passed: Sequence[int], held: Sequence[int]) -> list[int]:
    """Groups pieces into segments such that the peak of memory is smallest.

    While a segment is recomputed, memory holds the tensors inside it, the tensors between the
    segments up to it and, because the two views share one loss, all tensors between segments of
    the other view. The largest of these sums is minimized: many short segments have much between
    them, few long ones hold much.

    >>> segments_of_least_peak(passed=[1, 1, 1, 1, 1], held=[8, 8, 8, 8])  # one piece each
    [0, 1, 2, 3, 4]
    >>> segments_of_least_peak(passed=[1, 9, 1, 9, 1], held=[8, 8, 8, 8])  # cut where it is narrow
    [0, 2, 4]

    Args:
        passed: sizes of the tensors between pieces, including the one before the first piece and
            the one after the last.
        held: size of what each piece computes.

    Returns:
        The bounds of the segments, ascending from 0 to the number of pieces: segment i consists of
        pieces bounds[i], …, bounds[i + 1] − 1.
    """
    bound: float = sum(passed) + sum(held)
    best, least = [0, len(held)], math.inf  # one segment is always possible
    while found := _within(bound, passed, held):
        kept, bounds = found
        if bound + kept < least:
            best, least = bounds, bound + kept
        bound *= 0.95
    return best


def _within(bound, passed, held):
    """Finds the segments with least between them, where each may need at most `bound`.

    Returns:
        (size of what is between, bounds), or None if there are none.
    """
    # Keeping less up to a cut is always better, so each cut has one best way to reach it.
    best: list[tuple[int, list[int]] | None] = [(passed[0], [0]), *[None] * len(held)]
    for end in range(1, len(best)):
        inside = 0
        for start in reversed(range(end)):
            inside += held[start]
            if inside > bound:
                break
            reached, so_far = best[start], best[end]
            if reached and reached[0] + inside <= bound:
                kept, bounds = reached
                if so_far is None or kept + passed[end] < so_far[0]:
                    best[end] = (kept + passed[end], [*bounds, end])
    return best[-1]
