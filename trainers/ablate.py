"""Runs experiments and draws what they found: python -m trainers.ablate --sweep=NAME.

A sweep is a list of settings, see trainers/ablations/sweeps.py; NAME is one that comes with this
package, several with commas between them, `all`, or the path of a .json file. Every setting is a
run in its own folder in OUT/runs. Called again, what is done is skipped and what was begun goes on.
Afterwards OUT/NAME.md holds the table, OUT/NAME.png the picture and OUT/NAME.results.json every
figure.
"""

import pathlib

from absl import flags

from trainers.ablations import sweeps
from trainers.cli import command

FLAGS = flags.FLAGS

flags.DEFINE_list("sweep", None, f"Which: {', '.join(sweeps.names())}; all; or .json files.")
flags.DEFINE_string(
    "data", None, "Takes the place of {data} in sweeps that leave it open: see trainers.pretrain."
)
flags.DEFINE_string("out", "runs/ablations", "Folder of runs, tables and pictures.")
flags.DEFINE_integer("jobs", 1, "Runs at a time, which share the cores.", lower_bound=1)
flags.DEFINE_bool("dry_run", False, "Whether only to print the commands of what is to be done.")
flags.DEFINE_bool("report", False, "Whether only to write the tables and pictures of what is done.")


def main():
    """Makes the runs, then writes tables and pictures."""
    with command.mistakes:
        wanted = read_sweeps()
        runs = [run for sweep in wanted for run in (*sweep.references, *sweep.runs)]
        sweeps.check_folders(runs)
        if FLAGS.dry_run:
            print_commands(runs)
            return
        with command.quiet_start():
            from trainers.ablations import queue, results

        out = pathlib.Path(FLAGS.out)
        out.mkdir(parents=True, exist_ok=True)
        work = queue.Queue(runs, FLAGS.jobs)
        try:
            if not FLAGS.report:
                work.work()
        except KeyboardInterrupt:
            print("\nStopped. The same command goes on from here.")
            raise SystemExit(130) from None
        finally:
            for sweep in wanted:
                table = results.write(out, sweep)
                print(f"\n{sweep.title}\n\n{table}\n\nWritten to {out}/{sweep.name}.*")
        if work.failed:
            logs = [str(queue.log_file(run)) for run in work.failed if queue.log_file(run).exists()]
            more = ", …" if len(logs) > 3 else ""
            command.fail(
                f"Runs that failed: {len(work.failed)}. The same command tries again. "
                f"See {', '.join(logs[:3])}{more}"
            )


def read_sweeps():
    """The sweeps that the flags name."""
    if not FLAGS.sweep:
        raise ValueError(f"--sweep is needed: {', '.join(sweeps.names())}, or all.")
    chosen = sweeps.names() if FLAGS.sweep == ["all"] else FLAGS.sweep
    chosen = list(dict.fromkeys(chosen))
    stems = [pathlib.Path(name).stem for name in chosen]
    if len(set(stems)) < len(stems):
        raise ValueError(f"Sweeps must have different names. Received: {', '.join(chosen)}")
    runs = pathlib.Path(FLAGS.out) / "runs"
    found = [sweeps.read(name, FLAGS.data, runs) for name in chosen]
    if FLAGS.data and not any(sweep.uses_data for sweep in found):
        raise ValueError(
            f"--data is for sweeps that leave open what to train on. Received: --data={FLAGS.data} "
            f"for {', '.join(chosen)}, which say it themselves."
        )
    return found


def print_commands(runs):
    """Prints the command of every run that is not done, each once."""
    import shlex

    for run in {run.folder: run for run in runs}.values():
        if run.measures() is None:
            print(shlex.join(["python", *run.command()[1:]]))


if __name__ == "__main__":
    command.run(main)
