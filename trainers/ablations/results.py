"""What sweeps have found: a table and a picture of each."""

import dataclasses

import numpy as np

from keras_bt import figures, workdir
from trainers.ablations.sweeps import MEASURES


@dataclasses.dataclass(frozen=True)
class Row:
    """What the runs of one setting reached.

    Attributes:
        at: number or string, place on the horizontal axis.
        series: string, the curve.
        values: dict from a measure to its values, a float 0 to 1 for each seed that is done.
        wanted: int, how many seeds there are to be.
    """

    at: int | float | str
    series: str
    values: dict
    wanted: int


def rows(runs):
    """Collects the results of runs by their settings: a list of `Row`."""
    groups = {}
    for run in runs:
        groups.setdefault((run.series, run.at), []).append(run)
    found = []
    for (series, at), members in groups.items():
        measures = [m for m in (run.measures() for run in members) if m is not None]
        values = {
            name: [m[name] for m in measures]
            for name in MEASURES
            if any(name in m for m in measures)
        }
        found.append(Row(at, series, values, len(members)))
    return found


def mean_and_deviation(values):
    """The mean and the standard deviation over seeds (n − 1), NaN where it is unknown."""
    values = np.asarray(values, float)
    mean = values.mean() if values.size else np.nan
    return mean, values.std(ddof=1) if values.size > 1 else np.nan


def table(sweep):
    """The table of a sweep in Markdown, in percent: mean ± deviation over the seeds."""
    found = rows(sweep.runs) + rows(sweep.references)
    measures = [name for name in MEASURES if any(name in row.values for row in found)]
    series = any(row.series for row in rows(sweep.runs))
    header = [sweep.x, *(["curve"] if series else []), *(MEASURES[m] for m in measures), "seeds"]
    lines = []
    for row in found:
        reference = row.at in ("untrained", "pixels")
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
    """Draws a sweep: a panel for every measure, a curve for every series, bars over the seeds.

    Args:
        path: file to write.
        sweep: `trainers.ablations.sweeps.Sweep`; settings without a result are left out.

    Returns:
        Whether there was something to draw.
    """
    found = [row for row in rows(sweep.runs) if row.values]
    measures = [name for name in MEASURES if any(name in row.values for row in found)]
    if not measures:
        return False
    figure, panels = figures.new(0.6 + 3.6 * len(measures), 3.4, columns=len(measures))
    for panel, measure in zip(panels, measures, strict=True):
        _panel(panel, sweep, [row for row in found if measure in row.values], measure)
    panels[0].set_ylabel("accuracy in percent")
    figure.suptitle(sweep.title)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figures.legend_below(figure, handles, labels)
    figures.save(figure, path)
    return True


def _panel(panel, sweep, found, measure):
    """Draws the curves of one measure."""
    places = list(dict.fromkeys(row.at for row in found))
    numbers = all(_is_number(place) for place in places)
    x = {place: place if numbers else index for index, place in enumerate(places)}
    for index, series in enumerate(dict.fromkeys(row.series for row in found)):
        own = [row for row in found if row.series == series]
        own = sorted(own, key=lambda row: x[row.at])
        means, deviations = zip(
            *(mean_and_deviation(row.values[measure]) for row in own), strict=True
        )
        panel.errorbar(
            [x[row.at] for row in own],
            100 * np.array(means),
            100 * np.nan_to_num(np.array(deviations)),
            color=figures.COLOURS[index % len(figures.COLOURS)],
            marker=figures.MARKS[index % len(figures.MARKS)],
            linestyle="-" if numbers or len(places) > 1 else "",
            capsize=3,
            label=series or "Barlow Twins",
        )
    for row, style in zip(rows(sweep.references), ("--", ":"), strict=False):
        if measure in row.values:
            mean, _ = mean_and_deviation(row.values[measure])
            panel.axhline(100 * mean, color="#777777", linestyle=style, label=row.series)
    if numbers and sweep.log:
        panel.set_xscale("log", base=2)
    panel.set_xticks(list(x.values()))
    if numbers:
        panel.minorticks_off()
        panel.set_xticklabels([f"{place:g}" for place in places], rotation=45)
    else:
        panel.set_xticklabels(places, rotation=30, ha="right")
    panel.set_xlabel(sweep.x)
    panel.set_title(MEASURES[measure], fontsize=10)
    panel.grid(alpha=0.3)


def write(folder, sweep):
    """Writes table, picture and figures of a sweep into a folder; returns the table."""
    text = table(sweep)
    (folder / f"{sweep.name}.md").write_text(
        f"# {sweep.title}\n\n{sweep.finding}\n\n{text}\n", encoding="utf-8"
    )
    picture(folder / f"{sweep.name}.png", sweep)
    content = [dataclasses.asdict(row) for row in rows(sweep.runs) + rows(sweep.references)]
    workdir.write_json(folder / f"{sweep.name}.results.json", content)
    return text


def _is_number(value):
    return isinstance(value, (int, float))
