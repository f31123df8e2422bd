"""The command for GPU machines: what its parts' processes do, and that failures are noted."""

import importlib.util
import json
import sys
import types

import benchmark_run
import pytest
import script

from benchmarks import gpu


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("pass", None),
        ("sys.exit('no such device')", "exit status 1; its last line: no such device"),
        ("time.sleep(60)", "not done in 1 s; its last line: "),
    ],
)
def test_what_a_part_found_is_kept_though_it_fails(program, error, tmp_path, monkeypatch):
    text = "import sys, time; print('{\"ms\": 2.5}', flush=True); " + program
    monkeypatch.setattr(gpu, "command_of", lambda *_: ([sys.executable, "-c", text], {}))
    args = types.SimpleNamespace(out=tmp_path, limit=1)
    found = gpu.measured("views_jax", args, gpu.TINY, tmp_path)
    assert found["ms"] == 2.5
    assert found.get("error", "").startswith(error or "")
    assert ("error" in found) == (error is not None)


def test_speed_of_a_run_is_that_after_its_first_epoch():
    times = {2: 60.0, 4: 90.0, 6: 100.0, 8: 101.0}
    lines = [{"step": n, "epoch": (n + 3) // 4, "time": t} for n, t in times.items()]
    found = gpu.of_metrics(lines, batch_size=8, started=10.0)
    assert found == {"seconds to step 2": 50.0, "images/s": 16.0}


def test_a_mistake_is_told(capsys):
    message = script.mistake(capsys, "gpu", "--parts=views", package="benchmarks")
    assert "--parts must be among pretrain_jax, " in message


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_writes_what_it_measured(tmp_path):
    flags = ["--tiny", "--parts=step_torch_bfloat16", f"--out={tmp_path}"]
    result = benchmark_run.call("gpu", *flags)
    found = json.loads((tmp_path / "results.json").read_text())["step_torch_bfloat16"]
    assert found["images/s"] > 0
    assert "error" not in found
    line = (tmp_path / "results.txt").read_text().splitlines()[-1]
    assert line in result.stdout
    assert "step_torch_bfloat16" not in benchmark_run.call("gpu", *flags).stdout  # done already
