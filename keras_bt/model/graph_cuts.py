"""Where the graph of a functional model can be cut, and where cuts save most memory."""

import math

import keras

_UNKNOWN_SIDE = 224  # stands for a height or width that the model leaves open


def is_chain(model):
    """Whether `model` is a graph from one input to one output, and a call of it is no more."""
    return (
        isinstance(model, keras.Model)
        and type(model).call.__module__.startswith("keras.")  # not a `call` of a user's own
        and len(getattr(model, "inputs", None) or ()) == 1
        and len(getattr(model, "outputs", None) or ()) == 1
    )


def pieces_of(model):
    """Cuts a model wherever all that follows needs a single tensor.

    Yields:
        `keras.Function`s, from each such tensor to the next, of the input to the output. Models
        within the model are cut too.
    """
    by_depth = keras.Function(model.inputs, model.outputs)._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    nodes = [node for node in nodes if not node.is_input]  # in an order of computation
    last_use = {id(t): i for i, node in enumerate(nodes) for t in node.input_tensors}
    last_use[id(model.outputs[0])] = len(nodes)

    start, needed, inside = model.inputs[0], {}, 0
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


def sizes(model, pieces):
    """Measures what pieces pass on and hold, in elements per image.

    Returns:
        Two lists: the sizes of the tensors between the pieces, those of input and output
        included; and the sums over all tensors that each piece computes.
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


def segments_of_least_peak(passed, held):
    """Groups pieces into segments.

    While a segment is computed again, there are in memory: what it holds; the tensors between
    the segments up to it; and, as training has two views and one loss, all tensors between
    segments of the other view. That sum, at its largest, is to be least. Many short segments
    have much between them, few long ones hold much.

    Args:
        passed: sizes of the tensors between pieces, that before the first and that after the last
            included.
        held: sizes of what each piece computes.

    Returns:
        The bounds of the segments, ascending from 0 to the number of pieces: segment i is of the
        pieces from bounds[i] up to and without bounds[i + 1].
    """
    bound = sum(passed) + sum(held)
    best, least = None, math.inf
    while found := _within(bound, passed, held):
        kept, bounds = found
        if bound + kept < least:
            best, least = bounds, bound + kept
        bound *= 0.95
    return best


def _within(bound, passed, held):
    """Finds the segments with least between them of those that need no more than `bound` each.

    Returns:
        (size of what is between, bounds), or None if there are none.
    """
    # To have kept less up to a cut is always better; so there is one best way to each cut.
    best = [(passed[0], [0])] + [None] * len(held)
    for end in range(1, len(best)):
        inside = 0
        for start in reversed(range(end)):
            inside += held[start]
            if inside > bound:
                break
            if best[start] and best[start][0] + inside <= bound:
                kept, bounds = best[start]
                if best[end] is None or kept + passed[end] < best[end][0]:
                    best[end] = (kept + passed[end], [*bounds, end])
    return best[-1]
