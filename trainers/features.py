"""Writes the features of all images: python -m trainers.features --backbone=RUN --out=FILE.npz.

A row for each image of --data that can be read, labeled or not, of all its parts: its path or
name, its part (train, test), its class where it has one, and its features. FILE.csv and
FILE.parquet are for tables; docs/features.md says what is in them. The same command goes on with an
extraction that was interrupted.
"""

from trainers.cli import command
from trainers.runs.collection_settings import FeaturesSettings


def features(settings):
    """Extracts features or reads those on disk, and writes them."""
    with command.mistakes:
        # Imported only once the flags are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from keras_bt import messages
            from trainers.runs import collection, feature_files

        write = feature_files.writer(settings.out)
        out = messages.check_writable("--out", settings.out)
        found = collection.read(settings)
        rows = found.whitened() if settings.whiten else found.features
        write(out, found, rows)
        print(f"Written to {out}: {len(found):,} images, {rows.shape[1]:,} features each.")


def main():
    """Runs the command."""
    command.run(features, FeaturesSettings)


if __name__ == "__main__":
    main()
