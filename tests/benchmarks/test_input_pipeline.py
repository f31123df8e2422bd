"""Runs the benchmarks with tiny numbers; how fast anything is, is not tested."""

import re
import time

import benchmark_run
import numpy as np
import pytest
import small_network
from PIL import Image

from benchmarks import input_pipeline


@pytest.fixture(scope="module")
def output():
    """What the command prints to a user; its views have all layers, which do nothing."""
    flags = ["--images=4", "--rounds=1", "--batch_size=2", "--image_size=32", "--cores=1"]
    with small_network.plain_views():
        return benchmark_run.call("input_pipeline", *flags).stdout


def rows(output):
    """Title → numbers of every row of the tables, without what is not a number."""
    lines = [re.split(r" *\| *", line.strip("| ")) for line in output.splitlines() if "|" in line]
    return {
        cells[0]: [float(x) for x in cells[1:] if re.fullmatch(r"[\d.]+", x)] for cells in lines
    }


@pytest.mark.slow
def test_prints_speeds_and_operations(output):
    measured = rows(output)
    placements = ("host, compiled", "host, plain", "device: the host's part")
    for name in (f"keras_bt, {placement}" for placement in placements):
        median, least, greatest, *_ = measured[name]
        assert 0 < least <= median <= greatest
    assert set(input_pipeline.OPERATIONS) < measured.keys()
    assert measured["Decode"][0] > 0
    for column, total in enumerate(measured["Sum"]):
        parts = [measured[title][column] for title in input_pipeline.OPERATIONS]
        assert total == pytest.approx(sum(parts), abs=0.05)
    assert re.match(r"\d{4}-\d\d-\d\d, 1 cores? of \S+", output)
    assert re.search(r"Python 3\.\d+.*, tensorflow 2\.\d+", output)


@pytest.mark.slow
def test_measures_torchvision_or_says_why_not(output):
    measured = input_pipeline.TORCHVISION in rows(output)
    assert measured != ("torchvision is left out: " in output)


def test_photographs_are_real_and_differ(tmp_path):
    paths = input_pipeline.write_photographs(tmp_path, 12)
    assert sorted(tmp_path.iterdir()) == paths
    images = [Image.open(path) for path in paths]
    assert {image.size for image in images} == {(500, 375), (375, 500)}
    assert {image.format for image in images} == {"JPEG"}
    assert len({path.read_bytes() for path in paths}) == 12
    assert min(np.asarray(image).std() for image in images) > 20


def test_speed_counts_images_of_steady_flow():
    drawn = []

    def batches():
        for i in range(100):
            drawn.append(i)
            yield i

    rate, cpu = input_pipeline.images_per_second(batches(), batch_size=8, steps=5, cores=2)
    assert len(drawn) == 4 + 6  # two batches per core first, then 5 rounded up
    assert rate > 0
    assert cpu >= 0


def test_cpu_time_leaves_out_waiting():
    assert input_pipeline.cpu_milliseconds(lambda: time.sleep(0.05), 2) < 25


def test_ratio_is_of_medians():
    ours, theirs = [(10.0, 1.0), (30.0, 2.0), (20.0, 3.0)], [(10.0, 1.0), (5.0, 2.0), (20.0, 3.0)]
    text = input_pipeline.speed_table({"ours": ours, input_pipeline.TORCHVISION: theirs})
    assert rows(text)["ours"] == [20, 10, 30, 2.0, 2.0]
    assert rows(text)[input_pipeline.TORCHVISION] == [10, 5, 20, 1.0, 2.0]
