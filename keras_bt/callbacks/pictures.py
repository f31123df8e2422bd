"""Pictures of the representation while it trains, for TensorBoard and as files."""

import os
import pathlib
import tempfile
from collections.abc import Sequence

import tensorflow as tf

from keras_bt import plots
from keras_bt.callbacks.diagnostics import Diagnostics
from keras_bt.callbacks.labelled_subset import LabelledSubset
from keras_bt.callbacks.periodic import Periodic
from keras_bt.typing import Metrics, Path


class Pictures(Periodic):
    """Draws the matrix C, the spectrum and a map of features every few epochs and at the end.

    - `correlation`: C before training and now;
    - `spectrum`: singular values of the embeddings before and now, and of the features now;
    - `features`: test features in two dimensions (principal components), colored by class, if
      `subset` is given.

    They show the latest look of `diagnostics`, which must come earlier in the list of callbacks. In
    TensorBoard they belong to the run `pictures`.

    >>> layers = [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(16)]
    >>> twins = keras_bt.BarlowTwins(keras.Sequential(layers), projector)
    >>> twins.compile("sgd")
    >>> diagnostics = Diagnostics(next(iter(views)))
    >>> callbacks = [diagnostics, Pictures(diagnostics, folder="pictures")]
    >>> history = twins.fit(views, epochs=2, callbacks=callbacks, shuffle=False, verbose=0)
    >>> sorted(os.listdir("pictures"))  # after the last of two epochs
    ['correlation-2.png', 'spectrum-2.png']

    Args:
        diagnostics: the diagnostics of the same model.
        log_dir: folder of the TensorBoard logs, or None.
        folder: folder for PNG files `NAME-EPOCH.png`, or None.
        every: epochs between pictures; a multiple of that of `diagnostics`, or they show an older
            state.
        subset: labeled images, may be shared with other callbacks; None for no map.
        class_names: name of each class, or None for numbers.

    Raises:
        ValueError: if `every` is less than one, or neither `log_dir` nor `folder` is given.
    """

    def __init__(
        self,
        diagnostics: Diagnostics,
        log_dir: Path | None = None,
        folder: Path | None = None,
        every: int = 10,
        subset: LabelledSubset | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(every)
        if log_dir is None and folder is None:
            raise ValueError("Pictures needs a log_dir or a folder. Received: neither.")
        self.diagnostics = diagnostics
        self.subset = subset
        self.class_names = class_names
        self._log_dir = log_dir
        self._folder = folder

    def on_train_begin(self, logs: Metrics | None = None) -> None:
        """Opens the log."""
        self._writer = None
        if self._log_dir is not None:
            path = os.path.join(os.fspath(self._log_dir), "pictures")
            self._writer = tf.summary.create_file_writer(path)

    def on_epoch_begin(self, epoch: int, logs: Metrics | None = None) -> None:
        """Drops the features, which training is about to change."""
        if self.subset is not None:
            self.subset.forget()

    def look(self, epoch: int, logs: Metrics) -> None:
        """Draws the pictures."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(self._folder or temporary)
            for name, draw in self._drawings().items():
                path = folder / f"{name}-{epoch + 1}.png"
                draw(path)
                if self._writer is not None:
                    picture = tf.io.decode_png(path.read_bytes(), channels=3)
                    with self._writer.as_default():
                        tf.summary.image(name, picture[None], step=epoch)
        if self._writer is not None:
            self._writer.flush()

    def on_train_end(self, logs: Metrics | None = None) -> None:
        """Closes the log."""
        if self._writer is not None:
            self._writer.close()

    def _drawings(self):
        """Returns a dict from each picture's name to the function that draws it to a path."""
        before, now = self.diagnostics.before, self.diagnostics.latest
        looks = {
            f"after epoch {look.epochs}" if look.epochs else "untrained": look
            for look in (before, now)
        }

        def correlation(path):
            matrices = {name: look.correlation for name, look in looks.items()}
            plots.correlation(path, matrices)

        def spectrum(path):
            named = {f"embeddings, {name}": look.embeddings for name, look in looks.items()}
            named[f"features, after epoch {now.epochs}"] = now.features
            plots.spectrum(path, named, title="Spectrum of embeddings and features")

        drawings = {"correlation": correlation, "spectrum": spectrum}
        if (subset := self.subset) is None:
            return drawings

        def features(path):
            *_, test, labels = subset.features(self.model.backbone)
            plots.feature_map(path, test, labels, self.class_names, method="pca")

        return drawings | {"features": features}
