"""Runs sweeps of experiments and plots their results: python -m trainers.ablate --sweep=NAME.

A sweep is a list of settings, described in trainers/ablations/sweeps.py. NAME is a sweep that comes
with this package, several separated by commas, `all`, or the path of a .json file. Every setting is
a run in its own folder in OUT/runs. The same command skips finished runs and continues interrupted
ones. At the end OUT/NAME.md holds the table, OUT/NAME.png the plot and OUT/NAME.results.json all
numbers. Of runs that were looked at as they trained (--monitor_every), OUT/label_free.md tells how
well RankMe, LiDAR, α-ReQ and the loss rank them, compared with linear probes.
"""

import dataclasses
import pathlib
import shlex
import signal

from trainers.ablations import sweeps
from trainers.cli import command
from trainers.runs.fields import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateSettings(Settings):
    """The flags."""

    sweep: tuple[str, ...] = setting(
        (), f"Sweeps to run: {', '.join(sweeps.names())}; all; or .json files."
    )
    data: str | None = setting(
        None,
        "Images to train on, as for trainers.pretrain, in sweeps that leave them open as {data}.",
    )
    out: str = setting("runs/ablations", "Folder of the runs, tables and plots.")
    jobs: int = setting(1, "Number of concurrent runs, which share the cores.", least=1, most=1000)
    dry_run: bool = setting(False, "Only print the commands of the runs that are not finished.")
    report: bool = setting(False, "Only write the tables and plots of the finished runs.")


def ablate(flags):
    """Makes the runs, then writes tables and plots."""
    with command.mistakes:
        wanted = read_sweeps(flags)
        with command.quiet_start():
            from trainers.ablations import label_free, results, waves

        runs = [run for sweep in wanted for run in (*sweep.references, *sweep.runs)]
        sweeps.check_folders(runs)
        unfinished = [r for r in {run.folder: run for run in runs}.values() if r.measures() is None]
        sweeps.check_flags(unfinished)
        if flags.dry_run:
            for run in unfinished:
                print(shlex.join(["python", *run.command()[1:]]))
            return
        out = pathlib.Path(flags.out)
        out.mkdir(parents=True, exist_ok=True)
        work = waves.Waves(flags.jobs)
        try:
            if not flags.report:
                signals_interrupt()
                print(f"Runs that are not finished: {len(unfinished)}")
                work.make(unfinished)
        except KeyboardInterrupt:
            print("\nStopped. The same command continues from here.")
            raise SystemExit(130) from None
        finally:
            for sweep in wanted:
                table = results.write(out, sweep)
                print(f"\n{sweep.title}\n\n{table}\n\nWritten to {out}/{sweep.name}.*")
            if text := label_free.write(out, wanted):
                print(f"\n{text}\n\nWritten to {out / label_free.FILE}")
        if work.failed:
            logs = [str(run.beside("log")) for run in work.failed if run.beside("log").exists()]
            more = ", …" if len(logs) > 3 else ""
            command.fail(
                f"Failed runs: {len(work.failed)}. The same command tries them again. "
                f"See {', '.join(logs[:3])}{more}"
            )


def signals_interrupt():
    """Treats SIGTERM, and SIGHUP unless it is ignored, like Ctrl-C."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def read_sweeps(flags):
    """Reads the sweeps that the flags name.

    Raises:
        ValueError: if there is no such sweep, two have the same name, or --data fits none.
    """
    if not flags.sweep:
        raise ValueError(f"--sweep is needed: {', '.join(sweeps.names())}, or all.")
    chosen = sweeps.names() if flags.sweep == ("all",) else flags.sweep
    chosen = list(dict.fromkeys(chosen))
    stems = [pathlib.Path(name).stem for name in chosen]
    if len(set(stems)) < len(stems):
        raise ValueError(f"Sweeps must have different names. Received: {', '.join(chosen)}")
    runs = pathlib.Path(flags.out) / "runs"
    found = [sweeps.read(name, flags.data, runs) for name in chosen]
    if flags.data and not any(sweep.uses_data for sweep in found):
        raise ValueError(
            "--data requires a sweep that leaves the images open. "
            f"Received: --data={flags.data} with {', '.join(chosen)}, which names its own."
        )
    return found


def main():
    """Runs the command."""
    command.run(ablate, AblateSettings, backends=("tensorflow",))


if __name__ == "__main__":
    main()
