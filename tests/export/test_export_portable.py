import json
import sys

import pytest
import script
from exported import SETTINGS, difference, digits, write_run

from keras_bt.portable.formats import FORMATS


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def installed(ending):
    for module in FORMATS[ending].modules:
        pytest.importorskip(module, reason=f"{FORMATS[ending].name} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("ending", FORMATS)
def test_a_runs_backbone_sees_digits_as_evaluation_shows_them(run, ending, capsys):
    installed(ending)
    target = run / f"backbone{ending}"
    arguments = ("export_portable", f"--backbone={run}", f"--target={target}")
    script.call(*arguments, package="export")
    printed = capsys.readouterr().out
    assert printed.startswith(f"Written to {target}, with backbone{ending}.json, ")
    images, expected = digits(run)
    names = {"images": images}
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    exec("\n".join(lines), names)  # what the script says must work as it is
    assert difference(names["features"], expected) < 1e-5
    card = json.loads((run / f"backbone{ending}.json").read_text())
    assert (card["data"], card["settings"]) == ("digits", SETTINGS)
    assert card["metrics"] == {"loss": 1.5}
    assert (card["preprocessing"]["by"], card["preprocessing"]["resize"]) == ("the file itself", 8)

    refused = script.mistake(capsys, *arguments, package="export")
    assert refused == f"error: {target} exists. Pass --overwrite to replace it."
    (run / "config.json").unlink()
    flags = ("--image_size=16", "--resize=20", "--endpoint=infer", "--overwrite")
    script.call(*arguments[:1], f"--backbone={run / 'backbone.keras'}", arguments[2], *flags,
                package="export")  # fmt: skip
    card = json.loads((run / f"backbone{ending}.json").read_text())
    assert (card["preprocessing"]["by"], card["preprocessing"]["resize"]) == ("the client", 20)
    assert card["preprocessing"]["image_size"] == 16
    assert "settings" not in card


def test_mistakes_are_said_in_one_line(run, tmp_path, capsys, monkeypatch):
    installed(".tflite")
    target = tmp_path / "backbone.tflite"

    def mistake(*arguments, target=target):
        if target:
            arguments = (*arguments, f"--target={target}")
        line = script.mistake(capsys, "export_portable", *arguments, package="export")
        assert list(tmp_path.iterdir()) == [run]
        return line.removeprefix("error: ")

    given = f"--backbone={run}"
    assert mistake(given, target=None) == (
        "--target is needed: the file to write, .onnx or .tflite."
    )
    assert mistake().startswith("--backbone is needed: the folder of a run of trainers.pretrain")
    assert mistake(given, target="model.pt") == (
        "A portable file must end in .onnx or .tflite. Received: model.pt"
    )
    below = run / "config.json" / "model.tflite"
    assert "--target must be a file that can be written to." in mistake(given, target=below)
    assert "backbone must take images of 2×2×3" in mistake(given, "--image_size=2")
    assert "should be one of" in mistake(given, "--endpoint=train")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    assert mistake(given).startswith('LiteRT needs more packages: pip install "keras_bt[litert]" (')
