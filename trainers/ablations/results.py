"""Results of sweeps: a table and a plot of each."""

import dataclasses

import numpy as np

from keras_bt import workdir
from keras_bt.plots import figures
from trainers.ablations.sweeps import MEASURES


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of one setting.

    Attributes:
        at: number or string, place on the horizontal axis.
        series: string, the curve that it belongs to.
        values: dict from measures to lists of floats 0 to 1, one for each finished seed.
        wanted: int, number of seeds in the sweep.
    """

    at: int | float | str
    series: str
    values: dict
    wanted: int


def rows(runs):
    """Groups the results of runs by setting: a list of `Row`s."""
    groups = {}
    for run in runs:
        groups.setdefault((run.series, run.at), {})[run.folder] = run  # each seed once
    found = []
    for (series, at), seeds in groups.items():
        members = list(seeds.values())
        measures = [m for m in (run.measures() for run in members) if m is not None]
        values = {
            name: [m[name] for m in measures]
            for name in MEASURES
            if any(name in m for m in measures)
        }
        found.append(Row(at, series, values, len(members)))
    return found


def mean_and_deviation(values):
    """Computes mean and standard deviation (n − 1) over seeds, NaN where unknown."""
    values = np.asarray(values, float)
    mean = values.mean() if values.size else np.nan
    return mean, values.std(ddof=1) if values.size > 1 else np.nan


def table(sweep):
    """Formats a sweep as a Markdown table, in percent: mean ± deviation over the seeds."""
    own, references = rows(sweep.runs), rows(sweep.references)
    found = own + references
    measures = [name for name in MEASURES if any(name in row.values for row in found)]
    series = any(row.series for row in own)
    header = [
        sweep.x,
        *(["curve"] if series else []),
        *(label(sweep, m) for m in measures),
        "seeds",
    ]
    lines = []
    for row in found:
        reference = row in references
        first = row.series if reference else f"{row.at:,}" if _is_number(row.at) else row.at
        cells = [first, *(["" if reference else row.series] if series else [])]
        for name in measures:
            mean, deviation = mean_and_deviation(row.values.get(name, []))
            text = "–" if np.isnan(mean) else f"{100 * mean:.1f}"
            cells.append(text if np.isnan(deviation) else f"{text} ± {100 * deviation:.1f}")
        done = max((len(values) for values in row.values.values()), default=0)
        cells.append(str(done) if done == row.wanted else f"{done} of {row.wanted}")
        lines.append(cells)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])


def picture(path, sweep):
    """Draws a sweep: a panel per measure, a curve per series, error bars over the seeds.

    Numbers lie along the horizontal axis. Categories are listed down the vertical axis, as their
    names are long.

    Args:
        path: file to write.
        sweep: `trainers.ablations.sweeps.Sweep`; settings without results are left out.

    Returns:
        bool, False if there is nothing to draw.
    """
    found = [row for row in rows(sweep.runs) if row.values]
    measures = [name for name in MEASURES if any(name in row.values for row in found)]
    if not measures:
        return False
    all_references = rows(sweep.references)
    places = list(dict.fromkeys(row.at for row in found))
    numbers = all(_is_number(place) for place in places)
    height = 3.4 if numbers else 1.6 + 0.28 * len(places)
    width = (0.6 if numbers else 2.2) + 3.4 * len(measures)
    figure, panels = figures.new(width, height, columns=len(measures), sharey=not numbers)
    for panel, measure in zip(panels, measures, strict=True):
        rows_of_panel = [row for row in found if measure in row.values]
        references = [row for row in all_references if measure in row.values]
        if numbers:
            _curves(panel, places, rows_of_panel, measure, references, sweep.log)
            panel.set_xlabel(sweep.x)
        else:
            _list(panel, places, rows_of_panel, measure, references)
            panel.set_xlabel("accuracy in percent")
        panel.set_title(label(sweep, measure), fontsize=10)
        panel.grid(alpha=0.3)
    if numbers:
        panels[0].set_ylabel("accuracy in percent")
    figure.suptitle(sweep.title)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figures.legend_below(figure, handles, labels)
    figures.save(figure, path)
    return True


def label(sweep, measure):
    """Returns the name of a measure in tables and plots."""
    if measure != "few_labels":
        return MEASURES[measure]
    return f"linear probe, {sweep.runs[0].flags.get('few_labels', 600)} labels"


def _curves(panel, places, found, measure, references, log):
    """Draws accuracy over numbers."""
    for index, (name, own) in enumerate(_by_series(found).items()):
        own = sorted(own, key=lambda row: row.at)
        means, deviations = _percent(own, measure)
        panel.errorbar(
            [row.at for row in own], means, deviations, label=name, capsize=3, **_style(index)
        )
    for row, style in zip(references, _REFERENCE_STYLES, strict=False):
        panel.axhline(_percent([row], measure)[0][0], label=row.series, **style)
    if log:
        panel.set_xscale("log", base=2)
    panel.set_xticks(places, [f"{place:g}" for place in places], rotation=45)
    panel.minorticks_off()


def _list(panel, places, found, measure, references):
    """Draws accuracy by category."""
    for index, (name, own) in enumerate(_by_series(found).items()):
        means, deviations = _percent(own, measure)
        at = [places.index(row.at) for row in own]
        style = _style(index) | {"linestyle": ""}
        panel.errorbar(means, at, xerr=deviations, label=name, capsize=3, **style)
    for row, style in zip(references, _REFERENCE_STYLES, strict=False):
        panel.axvline(_percent([row], measure)[0][0], label=row.series, **style)
    panel.set_yticks(range(len(places)), [str(place) for place in places])
    panel.set_ylim(len(places) - 0.5, -0.5)  # the first on top


_REFERENCE_STYLES = [{"color": "#777777", "linestyle": style} for style in ("--", ":")]


def _by_series(found):
    """Groups rows by the names of their curves."""
    names = dict.fromkeys(row.series for row in found)
    return {name or "Barlow Twins": [r for r in found if r.series == name] for name in names}


def _percent(found, measure):
    """Returns means and deviations in percent; unknown deviations are NaN, drawn as no bar."""
    pairs = [mean_and_deviation(row.values[measure]) for row in found]
    return 100 * np.array(pairs).T


def _style(index):
    """Returns color and marker of a curve."""
    color = figures.COLORS[index % len(figures.COLORS)]
    return {"color": color, "marker": figures.MARKS[index % len(figures.MARKS)]}


def write(folder, sweep):
    """Writes a sweep's table, plot and numbers into a folder; returns the table and times."""
    text = f"{table(sweep)}\n\n{times(sweep)}"
    (folder / f"{sweep.name}.md").write_text(
        f"# {sweep.title}\n\n{sweep.finding}\n\n{text}\n", encoding="utf-8"
    )
    picture(folder / f"{sweep.name}.png", sweep)
    content = {
        "seconds": {run.folder.name: run.record()["seconds"] for run in sweep.runs},
        "rows": [dataclasses.asdict(row) for row in rows(sweep.runs) + rows(sweep.references)],
    }
    workdir.write_json(folder / f"{sweep.name}.results.json", content)
    return text


def times(sweep):
    """Describes how long the runs took."""
    done = {run.folder: run.record()["seconds"] for run in sweep.runs if run.measures() is not None}
    if not done:
        return "No run is finished."
    return (
        f"Finished runs: {len(done)}, of {min(done.values()):.0f} to {max(done.values()):.0f} s, "
        f"{sum(done.values()) / 60:.0f} minutes in all."
    )


def _is_number(value):
    return isinstance(value, (int, float))
