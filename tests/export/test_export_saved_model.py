import json

import pytest
import script
import tensorflow as tf
from exported import SETTINGS, difference, digits, write_run
from PIL import Image


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def export(*arguments):
    script.call("export_saved_model", *arguments, package="export")


def card(version):
    return json.loads((version / "assets.extra" / "card.json").read_text())


@pytest.mark.slow
def test_a_runs_backbone_sees_digits_as_evaluation_shows_them(run, capsys):
    export(f"--backbone={run}")
    version = run / "saved_model" / "1"
    printed = capsys.readouterr().out
    images, expected = digits(run)
    loaded = tf.saved_model.load(version)  # its functions do not keep it alive
    assert difference(loaded.serve(images)["features"], expected) < 1e-5
    found = card(version)
    assert (found["data"], found["settings"]) == ("digits", SETTINGS)
    assert found["metrics"] == {"loss": 1.5}
    assert found["preprocessing"]["resize"] == 8
    assert f"Written to {version}," in printed
    assert "serve       images uint8 (?, ?, ?, 3) → features float32 (?, 4)  (serving" in printed
    assert "serve_jpeg  encoded string (?) → features float32 (?, 4)\n" in printed
    # What the script says how to use the export must work as it is.
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  ")][-3:]
    names = {"images": images}
    exec("\n".join(lines), names)
    assert names["features"].shape == (20, 4)


@pytest.mark.slow
def test_versions_are_added_and_flags_have_the_last_word(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = run / "backbone.keras"
    export(f"--backbone={run}", "--out=models[1]", "--image_size=16", "--resize=20")
    assert "copy the folder" in capsys.readouterr().out
    export(f"--backbone={run}", "--out=models[1]", "--resize=9")
    (run / "config.json").unlink()
    export(f"--backbone={file}", "--out=models[1]", "--image_size=28")
    found = [card(tmp_path / "models[1]" / version) for version in "123"]
    sizes = [(c["preprocessing"]["image_size"], c["preprocessing"]["resize"]) for c in found]
    assert sizes == [(16, 20), (8, 9), (28, 32)]
    assert "settings" not in found[2]


@pytest.mark.slow
def test_images_that_the_run_tolerated_do_not_stop_an_export(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(6):
        file = tmp_path / "photos" / f"{index}.png"
        if index % 2:
            file.write_text("text")
        else:
            Image.new("RGB", (20 + index, 20)).save(file)
    settings = {**SETTINGS, "data": f"folder:{tmp_path / 'photos'}"}
    (run / "config.json").write_text(json.dumps({"settings": settings}))
    export(f"--backbone={run}")
    assert card(run / "saved_model" / "1")["preprocessing"]["resize"] == round(8 * 256 / 224)


def test_mistakes_are_said_in_one_line(run, tmp_path, capsys):
    def mistake(*arguments):
        line = script.mistake(capsys, "export_saved_model", *arguments, package="export")
        assert not (run / "saved_model").exists()
        return line.removeprefix("error: ")

    assert mistake().startswith("--backbone is needed: the folder of a run of trainers.pretrain")
    nothing = tmp_path / "nothing"
    assert f"Received: {nothing}, but there is no {nothing}." in mistake(f"--backbone={nothing}")
    text = tmp_path / "text.keras"
    text.write_text("some text")
    line = mistake(f"--backbone={text}", "--image_size=8")
    assert line.startswith(f"backbone must be a Keras model. Received: {text} (")
    assert "--image_size must be at least 1. Received: --image_size=0" in mistake(
        f"--backbone={run}", "--image_size=0"
    )
    assert "backbone must take images of 2×2×3" in mistake(f"--backbone={run}", "--image_size=2")
    assert "Received: image_size=8, resize=7." in mistake(f"--backbone={run}", "--resize=7")
    line = mistake(f"--backbone={run}", f"--out={text}")
    assert line == f"directory must be a folder that can be written to. Received: {text}, a file."
    (run / "config.json").write_text(json.dumps({"settings": {**SETTINGS, "data": "idx:gone"}}))
    assert mistake(f"--backbone={run}").startswith(
        "--resize is needed, as the data cannot be opened. "
    )
    (run / "config.json").unlink()
    assert mistake(f"--backbone={run}") == (
        f"--image_size is needed, as {run}/backbone.keras does not belong to a run."
    )
