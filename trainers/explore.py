"""Shows all images of a source at once: python -m trainers.explore --backbone=RUN --data=SOURCE.

Writes one HTML file, which works offline in any browser: a map on which similar images are near
each other, with pictures on a closer look; the most similar images of each; clusters with their
most typical images; images to label first; and lists of selected ones to save. docs/features.md
describes it.
"""

import time

from trainers.cli import command
from trainers.runs.explore_settings import ExploreSettings


def explore(settings):
    """Extracts features or reads those on disk, arranges the images, and writes the page."""
    started = time.monotonic()
    with command.mistakes:
        # Imported only once the flags are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from trainers.runs import exploring

        print(exploring.run(settings, started))


def main():
    """Runs the command."""
    command.run(explore, ExploreSettings)


if __name__ == "__main__":
    main()
