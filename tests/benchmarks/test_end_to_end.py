"""Runs the benchmark from files to trained steps with tiny numbers; speed is not tested."""

import json
import math
import os
import re
import subprocess
import sys
import types

import benchmark_run
import pytest
import script
from places import ROOT

from benchmarks import end_to_end, watched_pretrain, watched_processes

TINY = ["--images=8", "--image_size=32", "--rounds=1", "--cores=1", "--placements=device"]
TINY += ["--batch_size=4", "--steps=6", "--seconds=0", "--accelerators=slow=10,endless=1e9"]
TINY += ["--backbone=resnet18", "--stem=small", "--width=1", "--projector=8"]
TINY += ["--train_batch_size=4", "--train_steps=2", "--train_seconds=0"]


def printed(*flags):
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return benchmark_run.run("end_to_end", *flags, env=env)


@pytest.fixture(scope="module")
def result():
    """What the command prints to a user."""
    result = printed(*TINY)
    assert result.returncode == 0, result.stderr
    return result


def tables(output):
    """The cells of every table's rows, without header and rule."""
    blocks = re.findall(r"(?:^\|.*\n?)+", output, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
        for block in blocks
    ]


def numbers(cell):
    """Median, least and greatest of a cell."""
    median, least, greatest = (float(x) for x in re.findall(r"[\d.]+", cell))
    assert least <= median <= greatest
    return median


@pytest.mark.slow
def test_describes_machine_device_and_data(result):
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores of .*\nPython .*tensorflow 2", result.stdout)
    assert re.search(r"Measured on .+ in float32: resnet18", result.stdout)
    assert "8 JPEG files of 500 × 375; two views of 32 × 32" in result.stdout


@pytest.mark.slow
def test_says_what_it_is_doing(result):
    lines = result.stderr.splitlines()
    assert "writing 8 photographs" in lines
    assert "starting 1 of 1: augmentation on the device, 1 host core" in lines
    assert "round 1 of 1: augmentation on the device, 1 host core" in lines


@pytest.mark.slow
def test_trains_from_files_and_from_memory(result):
    files, memory = tables(result.stdout)[0]
    assert [files[0], memory[0]] == ["the files", "one batch in memory"]
    speeds = []
    for _, speed, milliseconds, waiting in (files, memory):
        speeds.append(numbers(speed))
        assert numbers(speed) * numbers(milliseconds) == pytest.approx(4 * 1000, rel=0.1)
        assert 0 <= numbers(waiting) <= 100
    cost = int(re.search(r"cost of the input: (-?\d+)%", result.stdout)[1])
    assert cost == pytest.approx(100 * (1 - speeds[0] / speeds[1]), abs=2)


@pytest.mark.slow
def test_measures_the_hosts_part(result):
    [[placement, cores, speed, cpu, waiting]] = tables(result.stdout)[1]
    assert [placement, cores] == ["device", "1"]
    assert numbers(speed) > 0
    assert 0 < numbers(cpu) <= 1000 / numbers(speed) * 1.1  # one core, if it was confined to it
    assert 0 < numbers(waiting) <= 100
    # Of one number of cores the rate per core is the rate, and no exponent can be fitted.
    fitted = re.search(r"- device: ([\d.]+) images/s per core\n", result.stdout)
    assert float(fitted[1]) == pytest.approx(numbers(speed), abs=0.6)


@pytest.mark.slow
def test_measures_the_waits_of_every_accelerator(result):
    """How long they are depends on the machine; see the steady host below."""
    slow, endless = tables(result.stdout)[2]
    assert [row[:4] for row in (slow, endless)] == [
        ["device", "slow", "10", "1"],
        ["device", "endless", "1e+09", "1"],
    ]
    for _, _, speed, _, reached, waits, idle, _ in (slow, endless):
        assert 0 < numbers(reached) <= float(speed)
        assert 0 <= numbers(waits) <= numbers(idle) <= 100
    assert [slow[7], endless[7]] == ["0%", "100%"]


@pytest.mark.slow
def test_says_how_many_cores_would_do_and_that_this_is_not_measured(result):
    assert "never waits: extrapolated, not measured" in result.stdout
    slow, endless = tables(result.stdout)[3]
    rate = float(re.search(r"- device: ([\d.]+) images", result.stdout)[1])
    assert slow == ["slow", "10", str(math.ceil(10 / rate))]
    assert endless[:2] == ["endless", "1e+09"]
    assert int(endless[2]) == pytest.approx(1e9 / rate, rel=0.01)


@pytest.mark.slow
def test_a_mistake_in_the_trainers_flags_is_one_line():
    result = printed(*TINY, "--projector=wide")
    assert result.returncode == 1
    lines = [s for s in result.stderr.splitlines() if not s.startswith(("writing", "starting"))]
    [line] = lines
    assert line.startswith("error: ")
    assert line.endswith("wide")


@pytest.fixture
def mistake(capsys, monkeypatch):
    """Calls the command, which must end with one line, and returns this."""
    monkeypatch.delitem(sys.modules, "benchmarks.end_to_end")  # runpy warns of what it finds there
    return lambda *flags: script.mistake(capsys, "end_to_end", *flags, package="benchmarks")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--accelerators=V100", "must be NAME=SPEED.* Received: V100"),
        ("--accelerators=V100=0", "must be NAME=SPEED.* Received: V100=0"),
        ("--accelerators=V100=inf", "must be NAME=SPEED.* Received: V100=inf"),
        ("--accelerators=a=1,a=2", "different names. Received: a twice"),
        ("--cores=0", "Cores must be numbers from 1 to .* Received: 0"),
        ("--cores=many", "Cores must be numbers from 1 to .* Received: many"),
        ("--cores=100000", "the number available. Received: 100000"),
        ("--placements=host,cloud", "among host, device. Received: host, cloud"),
        ("--data=digits", "must be folder:DIR.* Received: digits"),
        ("--data=folder:/nowhere", "/nowhere"),
        ("--images=1", "images"),
        ("--unknown", "unknown"),
    ],
)
def test_mistakes_end_in_one_line(mistake, flag, message):
    assert re.search(message, mistake(flag))


def test_too_few_images_for_a_batch(mistake, tmp_path):
    end_to_end.write_photographs(tmp_path, 3)
    line = mistake(f"--data=folder:{tmp_path}", "--batch_size=4", "--notrain")
    assert "batches of 4 for 3 images" in line


def test_says_how_a_process_ended_that_says_nothing_itself(monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    options = watched_pretrain.Options()
    with (
        pytest.raises(SystemExit, match="ended with status 1"),
        watched_processes.started({"it": (options, [])}),
    ):
        pytest.fail("it has not started")


def test_formulas():
    # (1·100 + 2·180 + 4·320) / (1 + 4 + 16)
    assert end_to_end.rate_per_core({1: 100, 2: 180, 4: 320}) == pytest.approx(1740 / 21)
    assert end_to_end.exponent({1: 100, 4: 200}) == pytest.approx(0.5)
    assert end_to_end.exponent({1: 50, 2: 100, 8: 400}) == pytest.approx(1)
    assert math.isnan(end_to_end.exponent({2: 100}))
    assert end_to_end.predicted_wait(2, 100, 800) == 0.75
    assert end_to_end.predicted_wait(8, 100, 800) == 0
    assert end_to_end.predicted_wait(9, 100, 800) == 0
    assert end_to_end.cores_needed(100, 800) == 8
    assert end_to_end.cores_needed(100, 801) == 9
    assert end_to_end.cores_needed(100, 1) == 1


def test_default_numbers_of_cores():
    assert end_to_end.core_counts([], 1) == [1]
    assert end_to_end.core_counts([], 2) == [1, 2]
    assert end_to_end.core_counts([], 6) == [1, 2, 4, 6]
    assert end_to_end.core_counts([], 16) == [1, 2, 4, 8, 16]
    assert end_to_end.core_counts(["4", "2", "2"], 4) == [2, 4]


def test_default_accelerators_say_what_is_assumed():
    speeds = end_to_end.accelerator_speeds(end_to_end.ACCELERATORS)
    assert speeds.pop("V100") == 110
    assert speeds
    assert all(name.startswith("assumed") for name in speeds)


class SteadyHost:
    """In place of a process: a host whose every core makes exactly 100 images per second."""

    started, ready = [], {"device": "CPU", "precision": "float32"}

    def __init__(self, options, arguments):
        self.options, self.arguments, self.orders = options, arguments, []
        self.started.append(self)

    def turn(self, order):
        self.orders.append(order)
        batch = 50 / (100 * self.options.cores)
        waited = max(0.0, batch - order.asleep)
        times = (waited + order.asleep, waited, order.asleep, batch * self.options.cores)
        return watched_pretrain.Reading(10, *(10 * seconds for seconds in times))

    def end(self):
        self.orders.append("end")


def test_measured_waits_of_a_steady_host_are_the_predicted_ones(monkeypatch, capsys):
    monkeypatch.setattr(watched_processes, "Process", SteadyHost)
    monkeypatch.setattr(SteadyHost, "started", [])
    args = types.SimpleNamespace(
        placements=["host", "device"], batch_size=50, steps=3, seconds=0.5, rounds=2, image_size=8
    )
    speeds, cores = {"slow": 150.0, "fast": 1000.0}, [1, 2]
    readings = end_to_end.simulated_readings(args, "folder:x", "y", True, cores, speeds)
    assert [(p.options.cores, p.options.simulated) for p in SteadyHost.started] == [
        (1, True),
        (2, True),
    ] * 2
    for process, placement in zip(SteadyHost.started, ["host"] * 2 + ["device"] * 2, strict=True):
        assert {f"--augment_on={placement}", "--batch_size=50"} < set(process.arguments)
        # In the order of falling speed, so that the stock of batches only grows.
        turns = [(order.asleep, order.steps, order.seconds) for order in process.orders[:-1]]
        assert turns == [(0, 3, 0.5), (0.05, 3, 0.5), (pytest.approx(1 / 3), 3, 0.5)] * 2
        assert process.orders[-1] == "end"
    per_core = end_to_end.print_host(args, readings, cores)
    assert per_core == {"host": pytest.approx(100), "device": pytest.approx(100)}
    end_to_end.print_accelerators(args, readings, cores, speeds, per_core)
    output = capsys.readouterr().out
    assert "- host: 100.0 images/s per core; images/s grow as cores^1.00" in output
    host, waits, needed = tables(output)
    assert host[0] == ["host", "1", "100 (100–100)", "10.0 (10.0–10.0)", "100 (100–100)"]
    assert host[1] == ["host", "2", "200 (200–200)", "10.0 (10.0–10.0)", "100 (100–100)"]
    assert waits[:4] == [
        ["host", "slow", "150", "1", "100 (100–100)", "33 (33–33)", "33 (33–33)", "33%"],
        ["host", "slow", "150", "2", "150 (150–150)", "0 (0–0)", "0 (0–0)", "0%"],
        ["host", "fast", "1000", "1", "100 (100–100)", "90 (90–90)", "90 (90–90)", "90%"],
        ["host", "fast", "1000", "2", "200 (200–200)", "80 (80–80)", "80 (80–80)", "80%"],
    ]
    assert needed == [["slow", "150", "2", "2"], ["fast", "1000", "10", "10"]]


@pytest.mark.parametrize("options", [{}, {"from_memory": True}, {"cache": True}, {"cores": 1}])
def test_replaces_no_more_than_it_says(monkeypatch, options):
    import tensorflow as tf

    from keras_bt import data
    from trainers.runs import monitors, pretraining

    batches = tf.data.Dataset.range(3)
    opened = object()
    monkeypatch.setattr(pretraining, "distribute_batches", lambda *_: batches)
    monkeypatch.setattr(data, "open_source", lambda *args, **caching: (opened, args, caching))
    for module, name in ((monitors, "monitors"), (pretraining.Pretraining, "model_class")):
        monkeypatch.setattr(module, name, getattr(module, name))
    options = watched_pretrain.Options(**options)
    watched_pretrain.replace_parts(options, watched_pretrain.Watch(), print)
    chosen = pretraining.distribute_batches("strategy", "pipeline", 3)
    expected = [0, 0, 0] if options.from_memory else [0, 1, 2]
    assert [int(batch) for batch in chosen.take(3)] == expected
    threads = chosen.options().threading.private_threadpool_size
    assert threads == (options.cores or None)
    caching = {} if options.cache else {"cache_bytes": 0}
    assert data.open_source("folder:x", None) == (opened, ("folder:x", None), caching)
    assert len(monitors.monitors("job", 1, 5000)) == 1


class Clock:
    """In place of the module `time`: only sleeping takes time, and a quarter of it of a core."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.now / 4

    def sleep(self, seconds):
        self.now += seconds


def run_course(clock, *orders):
    """The answers to orders of steps whose batches take 0.5 seconds, and beside 0.125."""

    def batches():
        while True:
            clock.sleep(0.5)
            yield

    answers, watch, endless = [], watched_pretrain.Watch(), batches()
    lines = (json.dumps(order) for order in orders)
    steps = 0
    for _ in watch.course(lines, answers.append):
        watch.fetch(endless)
        watch.sleep()
        clock.sleep(0.125)
        steps += 1
    return answers, steps


def test_watch_tells_waiting_from_steps(monkeypatch):
    monkeypatch.setattr(watched_pretrain, "time", clock := Clock())
    orders = [
        {"skip": 2, "steps": 4, "asleep": 0.25},
        {"skip": 0, "steps": 1, "asleep": 1, "seconds": 4},
    ]
    answers, steps = run_course(clock, *orders)
    assert answers == [
        {"steps": 4, "elapsed": 3.5, "waited": 2, "asleep": 1, "cpu": 0.875},
        # Goes on until its seconds are over.
        {"steps": 3, "elapsed": 4.875, "waited": 1.5, "asleep": 3, "cpu": 1.21875},
    ]
    assert steps == 2 + 4 + 3


@pytest.mark.skipif(not hasattr(watched_pretrain.os, "sched_setaffinity"), reason="Linux only")
def test_pins_to_the_first_cores():
    code = "import os; from benchmarks import watched_pretrain as w; w.pin(1); "
    code += "print(len(os.sched_getaffinity(0)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "1\n"
