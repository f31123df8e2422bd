"""A page of all images of a collection, behind `trainers.explore`."""

import time

import numpy as np
from sklearn.preprocessing import normalize

from keras_bt import messages
from keras_bt.evaluation import maps
from keras_bt.evaluation.coverage import typical_first
from keras_bt.evaluation.linear import held_out_predictions
from keras_bt.evaluation.neighbours import nearest_neighbours
from keras_bt.plots.pages import explore
from trainers.runs import collection, subject

_NEIGHBORS = 10
# Strongest directions that the probe sees, and numbers that it may read at each step: with more,
# it takes many minutes.
_PROBED, _MOST_WORK = 256, 1e9
_MAPS = {"tsne": "t-SNE", "pca": "principal components"}


def run(settings, started):
    """Reads the collection, arranges it and writes the page; returns the report for the terminal.

    Raises:
        ValueError, OSError: if there is nothing to show, or the page cannot be written.
    """
    s = settings
    what = subject.opened(s)
    out = messages.check_writable("--out", s.out or what.file.parent / "explore.html")
    images = collection.read(s, what)
    remarks = [f"Images: {what.data}", f"Backbone: {what.file}"]
    chosen = np.arange(len(images))
    if len(images) > s.images:
        random = np.random.default_rng(s.seed)
        chosen = np.sort(random.choice(len(images), s.images, replace=False))
        remarks.append(
            f"{s.images:,} of {len(images):,} images, drawn at random: clusters, neighbors and "
            "what to label are among these (--images changes how many)."
        )
        messages.say(f"Shown: {remarks[-1]}")
    shown = _arranged(s, images, chosen, remarks)
    messages.say("Writing the page")
    side = explore.write(out, shown, lambda numbers, size: images.images(chosen[numbers], size))
    size = out.stat().st_size / 1e6
    return (
        f"\nWritten to {out} in {messages.duration(time.monotonic() - started)}: "
        f"{len(chosen):,} images, {size:.1f} MB, thumbnails of up to {side} pixels. "
        "Open it in a browser."
    )


def _arranged(s, images, chosen, remarks):
    """Returns what the page shows, `keras_bt.plots.pages.explore.Explored`; adds to `remarks`."""
    n = len(chosen)
    if n < 2:
        raise ValueError(
            f"There must be two images or more. Received: {n} in {images.subject.data}"
        )
    labels = None if images.labels is None else images.labels[chosen]
    classes = 0 if labels is None or labels.ndim > 1 else len(np.unique(labels[labels >= 0]))
    count = s.clusters or maps.default_cluster_count(n, classes)
    if count > n:
        raise ValueError(
            "--clusters must be at most the number of images. "
            f"Received: --clusters={count} for {n:,} images."
        )
    plain = np.asarray(images.features[chosen], np.float32)
    # By cosine everywhere, so a feature's direction is all that counts.
    unit = normalize(np.asarray(images.whitened()[chosen], np.float32))
    centered = normalize(plain - plain.mean(axis=0))

    k = min(_NEIGHBORS, n - 1)
    messages.say(f"Finding the {k} most similar images of each")
    neighbors, similarities = _others(unit, k)
    messages.say(f"Grouping the images into {count} clusters")
    clusters = maps.clusters(centered, count, s.seed)
    trained = [i for i, number in enumerate(chosen) if images.splits[number] == "train"] or range(n)
    trained = np.array(trained)
    first = trained[typical_first(unit[trained], min(s.label_first, len(trained)), s.seed)]
    predictions = _predictions(plain, labels, classes, s.seed, remarks)
    seconds = n * 0.006 if s.map == "tsne" else 0
    about = f", about {messages.duration(seconds)} of one core" if seconds > 5 else ""
    messages.say(f"Placing the images by {_MAPS[s.map]}{about}")
    places = maps.image_map(unit, s.map, s.seed)
    whitened = "whitened features" if images.whitening is not None else "features"
    remarks += [
        f"Map: {_MAPS[s.map]} of {whitened}. Near means similar; distances between groups mean "
        "little."
        if s.map == "tsne"
        else f"Map: the two strongest {_MAPS[s.map]} of {whitened}.",
        f"Neighbors: by cosine similarity of {whitened}.",
        f"Clusters: k-means of features, {len(clusters.typical)} of them.",
        "Label first: among training images, k-means of as many clusters as images wanted; the "
        "most typical of each, ordered so that each is the farthest from those before.",
    ]
    return explore.Explored(
        title=f"{images.subject.data}, seen by {images.subject.file.parent.name}",
        names=[images.names[number] for number in chosen],
        places=places,
        clusters=clusters,
        neighbors=neighbors,
        similarities=similarities,
        first=first,
        splits=[images.splits[number] for number in chosen],
        labels=labels,
        class_names=images.class_names,
        predictions=predictions,
        remarks=remarks,
    )


def _others(unit, k):
    """Returns (neighbors, similarities) of each image without itself, (n, k) both."""
    similarities, indices = nearest_neighbours(unit, unit, k + 1, progress=len(unit) > 5000)
    kept = indices != np.arange(len(unit))[:, None]
    # Of many equal images, it may itself not be among the first.
    kept[kept.all(axis=1), -1] = False
    return indices[kept].reshape(-1, k), similarities[kept].reshape(-1, k)


def _predictions(features, labels, classes, seed, remarks):
    """Returns what a probe fitted to other images takes each for, or None; adds to `remarks`."""
    if classes < 2:
        return None
    known = labels >= 0
    reduced = maps.strongest(features, _PROBED)
    if reduced[known].size * classes > _MOST_WORK:
        remarks.append(f"No probe: of {classes:,} classes it would take many minutes.")
        return None
    messages.say("Fitting a probe to four fifths of the labels, and to the others in turn")
    predictions = np.full(len(labels), -1, np.int64)
    try:
        predictions[known] = held_out_predictions(reduced[known], labels[known], seed=seed)
    except ValueError:  # what is left in a fifth of a few images may be of a single class
        return None
    right = np.mean(predictions[known] == labels[known])
    remarks.append(
        f"Probe: logistic regression on features, fitted to four fifths of the {known.sum():,} "
        f"labeled images and asked about the rest, five times. It is right about {right:.1%}."
    )
    return predictions
