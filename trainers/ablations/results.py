"""Results of sweeps: a table and a plot of each."""

import dataclasses

import numpy as np

from keras_bt import files, workdir
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

    def percent(self, measure):
        """Computes mean and standard deviation (n − 1) over seeds in percent, NaN where unknown."""
        values = np.array(self.values.get(measure, []))
        mean = values.mean() if values.size else np.nan
        return 100 * mean, 100 * (values.std(ddof=1) if values.size > 1 else np.nan)


def rows(runs):
    """Groups the results of runs by setting: a list of `Row`s."""
    groups = {}
    for run in runs:
        groups.setdefault((run.series, run.at), {})[run.folder] = run  # each seed once
    found = []
    for (series, at), seeds in groups.items():
        measures = [m for m in (run.measures() for run in seeds.values()) if m is not None]
        values = {name: [m[name] for m in measures if name in m] for name in MEASURES}
        values = {name: numbers for name, numbers in values.items() if numbers}
        found.append(Row(at, series, values, len(seeds)))
    return found


def measures_of(found):
    """Lists the measures that any of the rows has."""
    return [name for name in MEASURES if any(name in row.values for row in found)]


def table(sweep):
    """Formats a sweep as a Markdown table, in percent: mean ± deviation over the seeds."""
    own, references = rows(sweep.runs), rows(sweep.references)
    measures = measures_of(own + references)
    curves = any(row.series for row in own)
    lines = [[sweep.x, *["curve"] * curves, *(label(sweep, m) for m in measures), "seeds"]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for row in own + references:
        first, series = (row.series, "") if row in references else (row.at, row.series)
        cells = [f"{first:,}" if _is_number(first) else first, *[series] * curves]
        for mean, deviation in map(row.percent, measures):
            text = "–" if np.isnan(mean) else f"{mean:.1f}"
            cells.append(text if np.isnan(deviation) else f"{text} ± {deviation:.1f}")
        done = max((len(values) for values in row.values.values()), default=0)
        cells.append(str(done) if done == row.wanted else f"{done} of {row.wanted}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def picture(path, sweep):
    """Draws a sweep: a panel per measure, a curve per series, error bars over the seeds.

    Numbers lie along the horizontal axis. Categories are listed down the vertical axis, as their
    names are long. Settings without results are left out.

    Returns:
        bool, False if there is nothing to draw.
    """
    found, references = rows(sweep.runs), rows(sweep.references)
    measures = measures_of(found)
    if not measures:
        return False
    places = list(dict.fromkeys(row.at for row in found if row.values))
    numbers = all(map(_is_number, places))
    height = 3.4 if numbers else 1.6 + 0.28 * len(places)
    width = (0.6 if numbers else 2.2) + 3.4 * len(measures)
    figure, panels = figures.new(width, height, columns=len(measures), sharey=not numbers)
    for panel, measure in zip(panels, measures, strict=True):
        _draw(panel, places, found, references, measure)
        if numbers:
            panel.set_xlabel(sweep.x)
            if sweep.log:
                panel.set_xscale("log", base=2)
            panel.set_xticks(places, [f"{place:g}" for place in places], rotation=45)
            panel.minorticks_off()
        else:
            panel.set_xlabel("accuracy in percent")
            panel.set_yticks(range(len(places)), [str(place) for place in places])
            panel.set_ylim(len(places) - 0.5, -0.5)  # the first on top
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


def _draw(panel, places, found, references, measure):
    """Draws a curve over numbers, or points beside categories, per series, and the references."""
    numbers = all(map(_is_number, places))
    known = [row for row in found if measure in row.values]
    for index, series in enumerate(dict.fromkeys(row.series for row in known)):
        own = {
            row.at if numbers else places.index(row.at): row
            for row in known
            if row.series == series
        }
        at = sorted(own)
        means, deviations = np.array([own[place].percent(measure) for place in at]).T
        style = {"color": figures.COLORS[index % len(figures.COLORS)], "capsize": 3}
        style |= {"marker": figures.MARKS[index % len(figures.MARKS)]}
        style |= {"label": series or "pretrained backbone"}
        if numbers:
            panel.errorbar(at, means, deviations, **style)
        else:
            panel.errorbar(means, at, xerr=deviations, linestyle="", **style)
    line = panel.axhline if numbers else panel.axvline
    shown = [row for row in references if measure in row.values]
    for row, style in zip(shown, ("--", ":"), strict=False):
        line(row.percent(measure)[0], label=row.series, color="#777777", linestyle=style)


def write(folder, sweep):
    """Writes a sweep's table, plot and numbers into a folder; returns the table and times."""
    text = f"{table(sweep)}\n\n{times(sweep)}"
    with files.whole(folder / f"{sweep.name}.md") as partial:
        partial.write_text(f"# {sweep.title}\n\n{sweep.finding}\n\n{text}\n", encoding="utf-8")
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
