"""Plots of what a run's network has learned, beside those of the untrained network."""

import keras
import numpy as np

from keras_bt import data, plots
from keras_bt.evaluation.features import extract_features, inference_function
from keras_bt.evaluation.linear import logistic_probe
from keras_bt.evaluation.neighbours import nearest_neighbours
from keras_bt.model.backend import compiled
from keras_bt.objectives import cross_correlation
from trainers.runs.labelled import labelled_halves
from trainers.runs.rebuilding import newest_checkpoint

_BATCH = 256
_QUERIES, _NEIGHBOURS = 8, 8


def draw(out, job, epochs, max_images):
    """Draws C, spectra, feature maps, neighbors and the confusion matrix, and prints their paths.

    At most `max_images` are plotted, and as many more used for neighbors and the linear probe. The
    model of `job`, a `Pretraining`, has been restored after `epochs`.
    """
    seed, image_size = job.settings.seed, job.settings.image_size
    after = f"after epoch {epochs}"
    models = {"untrained": job.build(job.strategy), after: job.model}

    def drawn(name, draw, *args, **kwargs):
        draw(out / f"{name}.png", *args, **kwargs)
        print(out / f"{name}.png")

    drawn("correlation", plots.correlation, correlations(models, *job.first_views))

    train, test, why_not = labels_or_reason(job)
    with data.reading(*job.sources):
        normalization = job.mean, job.std
        seen = Sample(test or job.test or job.train, image_size, max_images, seed, normalization)
        features = {name: seen.features(model.backbone) for name, model in models.items()}
        embeddings = {name: project(models[name].projector, z) for name, z in features.items()}
        for what, named in (("features", features), ("embeddings", embeddings)):
            title = f"Spectrum of the {what} of {len(seen):,} images"
            drawn(f"spectrum_{what}", plots.spectrum, named, title)

        names, labels = (train.class_names, seen.labels) if train else (None, None)
        for name, method in (("features", "tsne"), ("features_pca", "pca")):
            drawn(name, plots.feature_map, features[after], labels, names, method, seed=seed)

        found = seen, features[after]
        if not train:
            drawn("neighbours", draw_neighbours, *found, *found, None, seed)
            print(f"Not drawn: the colors of classes and confusion.png ({why_not}).")
            return
        fitted = Sample(train, image_size, max_images, seed, normalization)
        known = fitted, fitted.features(job.model.backbone)
        drawn("neighbours", draw_neighbours, *found, *known, names, seed)
        confusion = probe_of(job.run, test) or fit_probe(*known, *found, seed)
        drawn("confusion", plots.confusion_matrix, *confusion[:2], names, confusion[2])


def labels_or_reason(job):
    """Returns labeled sources to fit on and to plot, as `labelled_halves`, one class per image."""
    train, test, why_not = labelled_halves(job.train, job.test, job.settings.seed)
    if train is None:
        return None, None, why_not.removeprefix("not measured: ")
    if train.multilabel:
        return None, None, "the images have several labels each"
    if len(np.unique(train.labels())) < 2:
        return None, None, "all images are of one class"
    return train, test, None


def correlations(models, view_a, view_b):
    """Computes C of each network for the first views of the run, in inference mode."""
    view_a, view_b = view_a[:_BATCH], view_b[:_BATCH]
    found = {}
    for name, model in models.items():
        embed = model.embed
        if keras.backend.backend() == "jax":  # where each operation would be compiled by itself
            embed = compiled(model.embed, model, view_a)
        found[name] = np.asarray(cross_correlation(embed(view_a), embed(view_b)))
    return found


class Sample:
    """A sample of at most `most` images of a source, determined by the seed.

    `normalization` is the mean and the deviation of each channel that the network is given.
    """

    def __init__(self, source, image_size, most, seed, normalization):
        self._image_size, self._normalization, self.labels = image_size, normalization, None
        self._source = source.sample(most, seed) if source.num_examples > most else source

    def __len__(self):
        """Returns the number of images, known once they have been read."""
        return len(self.labels)

    def batches(self, mean, std):
        """Returns batches (images, labels), prepared for a network."""
        return data.evaluation_batches(self._source, self._image_size, _BATCH, mean=mean, std=std)

    def features(self, backbone):
        """Extracts the images' features, float32 (n, d), and keeps their labels in `labels`."""
        features, self.labels = extract_features(backbone, self.batches(*self._normalization))
        return features

    def images(self, numbers):
        """Returns the images with these numbers, as cropped for the network, (count, h, w, c)."""
        wanted, found, start = set(numbers), {}, 0
        plain = data.normalization("none", self._source.channels)
        for images, _ in self.batches(*plain).as_numpy_iterator():
            for number in wanted & set(range(start, start + len(images))):
                found[number] = np.clip(images[number - start], 0, 1)
            start += len(images)
        return np.stack([found[number] for number in numbers])


def project(projector, features):
    """Projects features to embeddings, float32 (n, d), in inference mode."""
    embed = inference_function(projector)
    parts = (features[i : i + _BATCH] for i in range(0, len(features), _BATCH))
    return np.concatenate([np.asarray(embed(part)) for part in parts])


def choose_queries(labels, count, seed):
    """Chooses up to `count` random images from as many classes as possible, ordered by class."""
    order = np.random.RandomState(seed).permutation(len(labels))
    turn = {}  # class → number of its images so far, less one
    rank = [turn.update({label: turn.get(label, -1) + 1}) or turn[label] for label in labels[order]]
    chosen = order[np.argsort(rank, kind="stable")][:count]
    return sorted(chosen.tolist(), key=lambda number: (labels[number], number))


def nearest_others(features, chosen, k):
    """Returns similarities and numbers (q, k) of the nearest neighbors of some among all others."""
    similarities, found = nearest_neighbours(features, features[chosen], k + 1)
    # An image is its own nearest neighbor, but a duplicate may come first.
    others = found != np.array(chosen)[:, None]
    others[others.all(axis=1), -1] = False
    return tuple(part[others].reshape(-1, k) for part in (similarities, found))


def draw_neighbours(path, queried, query_features, searched, features, class_names, seed):
    """Draws some images of one `Sample` with their nearest neighbors in another, or in the same.

    Without labels, `class_names` is None.
    """
    classes = queried.labels if class_names else np.zeros(len(query_features), int)
    chosen = choose_queries(classes, _QUERIES, seed)
    itself = searched is queried
    k = min(_NEIGHBOURS, len(features) - itself)
    if itself:
        similarities, found = nearest_others(features, chosen, k)
    else:
        similarities, found = nearest_neighbours(features, query_features[chosen], k)
    images = searched.images(found.ravel().tolist())
    labels = (queried.labels[chosen], searched.labels[found]) if class_names else (None, None)
    where = "the other images" if itself else f"{len(features):,} training images"
    plots.neighbours(
        path,
        queried.images(chosen),
        images.reshape(*found.shape, *images.shape[1:]),
        similarities,
        *labels,
        class_names,
        f"Nearest neighbors among {where}, by cosine similarity of features",
    )


def fit_probe(fitted, fitted_features, seen, features, seed):
    """Fits a linear probe on one sample; returns labels, predictions and title for another."""
    result = logistic_probe(fitted_features, fitted.labels, features, seen.labels, seed=seed)
    return seen.labels, result.predictions, f"Linear probe with {len(fitted):,} labels"


def probe_of(run, test):
    """Reads labels, predictions and title from this run's `trainers.linear_probe --fast`, if any.

    Returns None also if they belong to other images or to an earlier state of the network.
    """
    folder = run.path / "evaluation"
    path = folder / "linear_probe_fast.npz"
    if not path.is_file():
        path = folder / "linear_probe_fast_raw_pixels.npz"  # the same, beside raw pixels
    if not path.is_file() or path.stat().st_mtime < newest_checkpoint(run).stat().st_mtime:
        return None
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            labels, predictions = map(np.asarray, (arrays["labels"], arrays["predictions"]))
    except Exception:  # NumPy and zipfile raise nearly anything for a file that is not one
        return None
    fits = predictions.shape == labels.shape and predictions.dtype.kind in "iu"
    if not fits or not np.array_equal(labels, test.labels()):
        return None
    return labels, predictions, "Linear probe (trainers.linear_probe --fast)"
