"""How a command starts and ends: flags in, one clear line for a mistake."""

import contextlib
import os
import pathlib
import sys
import tempfile

from absl import app, flags, logging

RECIPES = pathlib.Path(__file__).parent.parent / "recipes"


def run(main, default_recipe=None, positional=False):
    """Parses the flags and runs `main()`; a user's mistake ends in one line and status 1.

    A mistake is an error of the flags, or a `ValueError` or `OSError` that `main` raises inside
    `with mistakes:`.

    Args:
        main: function without arguments or, if `positional`, of the list of arguments that are not
            flags.
        default_recipe: function from the command line's arguments to the name of a recipe or None,
            called if there is no `--flagfile`.
        positional: bool, whether arguments other than flags are allowed.
    """

    def parse(argv):
        given = any(argument.lstrip("-").startswith("flagfile") for argument in argv[1:])
        recipe = None if given or default_recipe is None else default_recipe(argv[1:])
        if recipe:
            # First, so that flags on the command line override it.
            argv = [argv[0], f"--flagfile={RECIPES / recipe}.flags", *argv[1:]]
        try:
            rest = flags.FLAGS(argv)
        except (flags.Error, OSError) as error:
            fail(str(error).removeprefix("ERROR:: "))  # absl's, of a flagfile
        if len(rest) > 1 and not positional:
            fail(f"Flags must have the form --name=value. Received: {' '.join(rest[1:])}")
        return rest

    def start(argv):
        logging.set_verbosity(logging.WARNING)
        main(*([argv[1:]] if positional else []))

    app.run(start, flags_parser=parse)


@contextlib.contextmanager
def quiet_start():
    """Hides what TensorFlow logs when it is imported inside this context, unless that fails.

    No setting silences its first lines, and it looks for GPUs only when asked to. If
    TF_CPP_MIN_LOG_LEVEL is set in the environment, everything is shown.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # from here on, only errors
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
            if "tensorflow" in sys.modules:
                sys.modules["tensorflow"].config.list_physical_devices()
        except BaseException:
            hidden.seek(0)
            os.write(shown, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)


class Mistakes:
    """A context, `with mistakes:`, that reports a `ValueError` or `OSError` as a user's mistake.

    Those of training count too: a loss that is not finite, a full disk, unreadable images.
    """

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        full = error is not None and "No space left on device" in str(error)
        if isinstance(error, (ValueError, OSError)):
            fail(error)
        if full and isinstance(error, Exception):  # as TensorFlow reports it
            fail(str(error).strip().splitlines()[0])


mistakes = Mistakes()


def fail(message):
    """Ends the program with a one-line error message and status 1."""
    sys.stdout.flush()
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(1)
