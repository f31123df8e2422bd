"""Pictures of a representation while it trains, for TensorBoard and as files."""

import os
import pathlib
import tempfile

import tensorflow as tf

from keras_bt import plots
from keras_bt.callbacks.periodic import Periodic


class Pictures(Periodic):
    """Draws the matrix C, the spectrum and a map of features every few epochs and at the end.

    - `correlation`: C before training and now;
    - `spectrum`: singular values of the embeddings before and now, and of the features now;
    - `features`: test features in two dimensions (principal components), colored by class, if
      there is a `subset`.

    They are of what `diagnostics` has measured last, which must come earlier in the list of
    callbacks. In TensorBoard they are in the run `pictures`.

    >>> diagnostics = Diagnostics(pair)
    >>> pictures = Pictures(diagnostics, log_dir="logs", every=10)
    >>> model.fit(views, epochs=100, callbacks=[diagnostics, pictures])

    Args:
        diagnostics: `Diagnostics` of the same model.
        log_dir: folder of the TensorBoard logs, or None.
        folder: folder for PNG files `NAME-EPOCH.png`, or None.
        every: int, epochs between pictures; a multiple of that of `diagnostics`, or they show an
            older state.
        subset: `LabelledSubset`, may be shared with other callbacks; None for no map.
        class_names: name of each class, or None for numbers.

    Raises:
        ValueError: if `every` is less than one, or the pictures have nowhere to go.
    """

    def __init__(
        self, diagnostics, log_dir=None, folder=None, every=10, subset=None, class_names=None
    ):
        super().__init__(every)
        if log_dir is None and folder is None:
            raise ValueError("Pictures needs a log_dir or a folder. Received: neither.")
        self.diagnostics = diagnostics
        self.subset = subset
        self.class_names = class_names
        self._log_dir = log_dir
        self._folder = folder

    def on_train_begin(self, logs=None):
        """Opens the log."""
        self._writer = None
        if self._log_dir is not None:
            path = os.path.join(os.fspath(self._log_dir), "pictures")
            self._writer = tf.summary.create_file_writer(path)

    def on_epoch_begin(self, epoch, logs=None):
        """The features are going to change."""
        if self.subset is not None:
            self.subset.forget()

    def look(self, epoch, logs):
        """Draws."""
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

    def on_train_end(self, logs=None):
        """Closes the log."""
        if self._writer is not None:
            self._writer.close()

    def _drawings(self):
        """From the name of each picture to the function that draws it to a path."""
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

        def features(path):
            backbone = self.model.backbone
            *_, test, labels = self.subset.features(backbone)
            plots.feature_map(path, test, labels, self.class_names, method="pca")

        drawings = {"correlation": correlation, "spectrum": spectrum}
        return drawings | ({"features": features} if self.subset is not None else {})
