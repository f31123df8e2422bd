"""Several runs side by side: their final figures, and the settings in which they differ."""

from keras_bt.evaluation.report import columns
from trainers.runs import results
from trainers.runs.fields import recorded_as_text
from trainers.runs.objectives import UNRECORDED
from trainers.runs.settings import PretrainingSettings

NOTHING = "–"


def table(runs):
    """Collects what is to be compared.

    Args:
        runs: dict from a run's name to its `keras_bt.workdir.Workdir`.

    Returns:
        figures: dict from what was measured to a text for every run, "–" where there is none.
        settings: the same of every setting in which they differ.
    """
    figures = {}
    finals = [results.final(run) for run in runs.values()]
    _add(figures, "loss above the floor", [_number(excess, ".2f") for excess, _ in finals])
    found = []
    for run in runs.values():  # the last counts where two files tell the same
        found.append({r.name: str(r) for r in results.read(run) if r.of == results.OURS})
    for name in dict.fromkeys(name for one in found for name in one):
        _add(figures, name, [one.get(name, NOTHING) for one in found])
    _add(figures, "images/s", [_number(speed, ",.0f") for _, speed in finals])

    settings = {}
    given = [UNRECORDED | run.read_settings() for run in runs.values()]
    for name in sorted({name for one in given for name in one}):
        _add(settings, name, [_value(one, name) for one in given])
    images = [run.read_images().get("training", {}).get("images") for run in runs.values()]
    _add(settings, "training images", [_number(count, ",") for count in images])
    settings = {name: texts for name, texts in settings.items() if len(set(texts)) > 1}
    return figures, settings


def as_text(names, figures, settings):
    """Formats what `table` returns for the terminal."""
    rows = [["final figures", *names], *([name, *texts] for name, texts in figures.items())]
    if settings:
        rows += [[""] * len(rows[0]), ["settings that differ", *[""] * len(names)]]
        rows += [[name, *texts] for name, texts in settings.items()]
    return "\n".join(columns(rows))


def _add(rows, name, texts):
    if set(texts) != {NOTHING}:
        rows[name] = texts


def _number(value, form):
    return NOTHING if value is None else format(value, form)


def _value(given, name):
    """Formats a setting as on the command line; null is what the program chooses by itself."""
    if name not in given:
        return NOTHING
    value = given[name]
    return "default" if value is None else recorded_as_text(PretrainingSettings, name, value)
