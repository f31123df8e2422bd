"""Finds the images most similar to others: python -m trainers.search --backbone=RUN --query=IMAGE.

All images of --data, labeled or not, are searched, by default those of the run, by the cosine
similarity of whitened features; the result is that of an exact search in float64. --query takes
image files of any size, several by giving it several times; a file that is itself among the images
is not listed. --out=picture.png shows the neighbors. docs/features.md has more.
"""

from trainers.cli import command
from trainers.runs.collection_settings import SearchSettings


def search(settings):
    """Searches the images and prints the neighbors of each query."""
    with command.mistakes:
        # Imported only once the flags are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from trainers.runs import searching

        print(searching.run(settings))


def main():
    """Runs the command."""
    command.run(search, SearchSettings)


if __name__ == "__main__":
    main()
