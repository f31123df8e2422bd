"""How a command starts and ends: flags in, one clear line for a mistake."""

import codecs
import contextlib
import gc
import importlib.util
import os
import pathlib
import re
import signal
import sys
import tempfile
import textwrap
from dataclasses import fields

from absl import flags, logging

from trainers.cli import STOPPED
from trainers.cli.compilation_cache import keep_compiled
from trainers.runs.fields import SIZE, as_text, kinds_of

BACKENDS = ("tensorflow", "jax")
RECIPES = pathlib.Path(__file__).parent.parent / "recipes"


def run(main, settings_class, default_recipe=None, positional=False, backends=BACKENDS):
    """Parses the flags and runs `main`; a user's mistake ends in one line and status 1.

    A mistake is an error of the flags, or a `ValueError` or `OSError` that `main` raises inside
    `with mistakes:`. Ctrl-C ends in one line and status 130, whatever is being done. An output that
    cannot be written to, as on a full disk, is a mistake too; what the terminal's encoding lacks is
    spelled out.

    Args:
        main: function of the settings and, if `positional`, of the list of arguments that are not
            flags.
        settings_class: `trainers.runs.fields.Settings` subclass whose fields are the flags.
        default_recipe: function from the command line's arguments to the name of a recipe or None,
            called if there is no `--flagfile`.
        positional: bool, whether arguments other than flags are allowed.
        backends: those of Keras that the command runs on, the default first.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 — until the program ends
        with contextlib.suppress(AttributeError):  # of a stream that is no file, in a notebook
            getattr(sys, name).reconfigure(errors=SPELLED_OUT)
    with interrupts:
        _run(main, settings_class, default_recipe, positional, backends)
        with mistakes:
            sys.stdout.flush()


def _run(main, settings_class, default_recipe, positional, backends):
    argv = sys.argv[1:]
    if any(argument.lstrip("-") in ("help", "h", "helpfull", "helpshort") for argument in argv):
        about = [sys.modules[main.__module__].__doc__, *map(_described, fields(settings_class))]
        with mistakes:
            print(*about, sep="\n", flush=True)
        return
    given = any(argument.lstrip("-").startswith("flagfile") for argument in argv)
    recipe = None if given or default_recipe is None else default_recipe(argv)
    if recipe:
        # First, so that flags on the command line override it.
        argv = [f"--flagfile={RECIPES / recipe}.flags", *argv]
    try:
        settings, rest = parsed(argv, settings_class)
    except ValueError as error:
        fail(error)
    if rest and not positional:
        fail(f"Flags must have the form --name=value. Received: {' '.join(rest)}")
    _check_backend(os.environ.get("KERAS_BACKEND") or BACKENDS[0], backends)
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    main(settings, *([rest] if positional else []))


def _check_backend(backend, backends):
    """Ends the program unless this is one of the backends that the command runs on."""
    if backend not in backends:
        known = " or ".join(backends)
        fail(f"This command runs with KERAS_BACKEND={known}. Received: KERAS_BACKEND={backend}")
    if backend == "jax" and importlib.util.find_spec("jax") is None:
        fail(
            'KERAS_BACKEND=jax needs JAX: pip install "keras_bt[jax]". '
            "Received: an environment without it."
        )
    os.environ["KERAS_BACKEND"] = backend  # whatever Keras' own file of settings says


def parsed(argv, settings_class):
    """Makes settings of a command line.

    Args:
        argv: list of strings, without the name of the command.
        settings_class: see `run`.

    Returns:
        The settings, and the list of arguments that are not flags.

    Raises:
        ValueError: if a flag is unknown, or a setting is not what it must be.
    """
    values = flags_of(settings_class)
    try:
        rest = values(["", *_with_flagfiles(argv)])[1:]
    except flags.Error as error:
        raise ValueError(_in_words(str(error))) from error
    given = {f.name: _value(f, values[f.name].value) for f in fields(settings_class)}
    typed = {argument.partition("=")[0].lstrip("-") for argument in argv if argument[:1] == "-"}
    return settings_class.of_flags(given, typed), rest


def _with_flagfiles(arguments, within=()):
    """Yields the arguments, with those of a file in place of each --flagfile; `within` are open."""
    arguments = iter(arguments)
    for argument in arguments:
        name, equals, file = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            yield argument
            continue
        file = file if equals else next(arguments, "")
        try:
            path = pathlib.Path(file).expanduser()
            resolved = path.resolve()
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError, RuntimeError) as error:  # a loop of links, no such user, a NUL
            not_text = isinstance(error, UnicodeDecodeError)
            why = "not UTF-8" if not_text else getattr(error, "strerror", None) or str(error)
            raise ValueError(
                "--flagfile must be a text file of flags, one a line. "
                f"Received: --flagfile={file} ({why})"
            ) from error
        if resolved in within:
            raise ValueError(f"--flagfile must not include itself. Received: --flagfile={path}")
        lines = [line.strip() for line in lines]
        flags_in_it = [line for line in lines if line and not line.startswith(("#", "//"))]
        yield from _with_flagfiles(flags_in_it, (*within, resolved))


def _in_words(message):
    """Returns a message of absl's, or of Python's inside it, as the others are.

    >>> _in_words("flag --epochs=1e2: invalid literal for int() with base 10: '1e2'")
    '--epochs must be a whole number. Received: --epochs=1e2'
    """
    for kind, python in (
        ("whole number", "invalid literal for int"),
        ("whole number", "Exceeds the limit"),
        ("number", "could not conv"),
    ):
        if found := re.match(rf"flag (--\w+)=(.*): {python}", message, re.DOTALL):
            return f"{found[1]} must be a {kind}. Received: {found[1]}={found[2]}"
    return message


def flags_of(settings_class):
    """Returns an `absl.flags.FlagValues` with a flag for every field of a `Settings` class."""
    values = flags.FlagValues()
    define = {str: flags.DEFINE_string, bool: flags.DEFINE_bool, int: flags.DEFINE_integer}
    define |= {float: flags.DEFINE_float}
    lists = (tuple[int, ...], tuple[float, ...], tuple[str, ...])
    define |= dict.fromkeys(lists, flags.DEFINE_list)
    define |= {SIZE: flags.DEFINE_string}
    for field in fields(settings_class):
        help, choices = field.metadata["help"], field.metadata["choices"]
        if choices and str in kinds_of(field):
            flags.DEFINE_enum(field.name, field.default, choices, help, flag_values=values)
        elif field.metadata["repeated"]:
            flags.DEFINE_multi_string(field.name, field.default, help, flag_values=values)
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            kinds = kinds_of(field)
            kind = SIZE if SIZE in kinds else kinds[0]
            if kind is SIZE and default is not None:
                default = str(default)
            define[kind](field.name, default, help, flag_values=values)
    return values


_NUMBERS = {
    tuple[int, ...]: (int, "whole numbers such as 7,14,21"),
    tuple[float, ...]: (float, "numbers such as 25,25,1"),
}


def _value(field, value):
    if SIZE in kinds_of(field) and value is not None:
        return _size(field.name, value)
    number, example = _NUMBERS.get(field.type, (None, ""))
    if number is None:
        return tuple(value) if isinstance(value, list) else value
    try:
        return tuple(map(number, value))
    except ValueError:
        raise ValueError(
            f"--{field.name} must be {example}. Received: --{field.name}={','.join(value)}"
        ) from None


def _size(name, value):
    """Returns the size that a flag names: an int, or of HEIGHTxWIDTH both."""
    if not re.fullmatch(r"-?\d{1,19}(x\d{1,19})?", value):
        raise ValueError(
            f"--{name} must be a whole number such as 64, or height x width such as 64x96. "
            f"Received: --{name}={value}"
        )
    sides = tuple(map(int, value.split("x")))
    return sides if len(sides) == 2 else sides[0]


def _described(field):
    """Returns the lines of `--help` about a field."""
    about = field.metadata
    limits = [f"≥ {about['least']}"] * (about["least"] is not None)
    limits += [f"> {about['above']}"] * (about["above"] is not None)
    limits += [f"≤ {about['most']}"] * (about["most"] is not None)
    values = [", ".join(about["choices"])] if about["choices"] else limits
    known = field.default not in (None, ())
    default = [f"default {as_text(field, field.default)}"] * known
    note = "; ".join([*values, *default])
    text = about["help"] + (f" ({note})" if note else "")
    return f"  --{field.name}\n{textwrap.indent(textwrap.fill(text, 84), '      ')}"


@contextlib.contextmanager
def quiet_start():
    """Hides what TensorFlow logs when it is imported inside this context, unless that fails.

    No setting silences its first lines, and it looks for GPUs only when asked to. If
    TF_CPP_MIN_LOG_LEVEL is set in the environment, everything is shown.
    """
    with collector_paused():
        yield from _hidden()
    if os.environ.get("KERAS_BACKEND") == "jax" and "tensorflow" in sys.modules:
        # TensorFlow reads images here, and would take all memory of the GPUs.
        sys.modules["tensorflow"].config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def collector_paused():
    """Keeps Python from looking for cycles among the many objects of an import: a second less."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _hidden():
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        with interrupts.at_once(2):
            yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # from here on, only errors
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as hidden, interrupts.at_once(shown):
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


class Interrupts(contextlib.AbstractContextManager):
    """A context that ends the program with one line and status 130 on Ctrl-C.

    The first signal raises `KeyboardInterrupt`, so that half-written files are removed. Its
    message, if it has one, is the line. Libraries may turn it into another error, so what follows
    the signal is put down to it; or they may swallow it: a second signal ends the program at once.
    """

    def __init__(self):
        self._struck, self._stderr = False, None

    def __enter__(self):
        self._struck, self._before = False, None
        # Not where it is ignored, as in the background of a shell; Python handles signals in its
        # main thread only.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with contextlib.suppress(ValueError):
                self._before = signal.signal(signal.SIGINT, self._strike)
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, KeyboardInterrupt) or (self._struck and isinstance(error, Exception)):
            line = str(error) if isinstance(error, KeyboardInterrupt) else ""
            self._say(line or STOPPED, 2)
            raise SystemExit(128 + signal.SIGINT) from None
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @property
    def struck(self):
        """Whether there was a signal."""
        return self._struck

    @contextlib.contextmanager
    def at_once(self, stderr):
        """Ends the program at the first signal, as nothing is being written, only imported.

        `stderr` is the file descriptor that the user sees.
        """
        before, self._stderr = self._stderr, stderr
        try:
            yield
        finally:
            self._stderr = before

    def _strike(self, number, frame):
        if self._struck or self._stderr is not None:
            self._say(STOPPED, 2 if self._stderr is None else self._stderr)
            os._exit(128 + signal.SIGINT)
        self._struck = True
        raise KeyboardInterrupt

    def _say(self, line, stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # its reader may be gone
            sys.stdout.flush()
        # The terminal shows ^C, and does not end that line.
        with contextlib.suppress(OSError):
            os.write(stderr, f"{chr(10) * os.isatty(stderr)}{line}\n".encode())


interrupts = Interrupts()


class Mistakes(contextlib.AbstractContextManager):
    """A context, `with mistakes:`, that reports a `ValueError` or `OSError` as a user's mistake.

    Those of training count too: a loss that is not finite, a full disk, unreadable images.
    """

    def __exit__(self, kind, error, traceback):
        if interrupts.struck:
            return  # the error is Ctrl-C's
        if isinstance(error, BrokenPipeError):
            # Whoever read the output, such as `head`, has seen enough.
            _discard(sys.stdout)
            raise SystemExit(141)  # 128 + SIGPIPE, as of programs that this signal ends
        if isinstance(error, (ValueError, OSError)):
            fail(error)
        # As TensorFlow reports a full disk.
        if isinstance(error, Exception) and "No space left on device" in str(error):
            from keras_bt.messages import first_line

            fail(first_line(error))


mistakes = Mistakes()


def fail(message):
    """Ends the program with a one-line error message and status 1."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        message = f"The output cannot be written: {error.strerror}."
    try:
        print(f"error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)
    raise SystemExit(1)


def _discard(stream):
    """Lets go of what could not be written, which Python would try again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _spelled_out(error):
    """Replaces characters that the terminal's encoding lacks, an error handler of `codecs`."""
    text = error.object[error.start : error.end]
    known = {"–": "-", "−": "-", "±": "+/-", "×": "x", "…": "...", "→": "->", "≥": ">=", "≤": "<="}
    return "".join(known.get(letter, "?") for letter in text), error.end


SPELLED_OUT = "keras_bt.spelled_out"
codecs.register_error(SPELLED_OUT, _spelled_out)
