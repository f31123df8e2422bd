"""Finds near-duplicates among images: python -m trainers.duplicates --backbone=RUN --out=FILE.csv.

All pairs of the images of --data, labeled or not, are compared by the cosine similarity of whitened
features; those that are connected by pairs of at least --similarity are one group. Test images that
are in a group with training images come first. FILE.csv has a row for each image of a group,
FILE.png shows the first groups; docs/features.md has more.
"""

from trainers.cli import command
from trainers.runs.collection_settings import DuplicatesSettings


def duplicates(settings):
    """Groups the images, writes the groups and prints what was found."""
    with command.mistakes:
        # Imported only once the flags are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from trainers.runs import grouping

        print(grouping.run(settings))


def main():
    """Runs the command."""
    command.run(duplicates, DuplicatesSettings)


if __name__ == "__main__":
    main()
