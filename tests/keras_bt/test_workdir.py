"""One process at a time, with the same settings, in a folder that holds nothing else."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import keras
import pytest
from full_disk import file_size_limit
from processes import abandoned

from keras_bt import workdir
from keras_bt.workdir import Workdir, write_json

SETTINGS = {"data": "digits", "epochs": 3}


@pytest.fixture
def run(tmp_path):
    return Workdir(tmp_path / "runs" / "digits")


def claim(run, settings=SETTINGS):
    with run.claimed(settings):
        return (run.path / "lock").read_text()


@pytest.fixture
def holder(run):
    """Another process that trains in the folder of `run`, until it is killed."""
    code = (
        "import sys; from keras_bt.workdir import Workdir\n"
        f"with Workdir({str(run.path)!r}).claimed({SETTINGS!r}):\n"
        "    print('claimed', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_claim_makes_the_folder_and_notes_the_settings(run):
    run.check(SETTINGS)
    assert not run.path.parent.exists()  # to check leaves no trace
    with run.claimed(SETTINGS):
        assert run.plots.is_dir()
    assert run.read_settings() == SETTINGS
    assert set(json.loads(run.config.read_text())["versions"]) == {"python", *workdir.PACKAGES}


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_gone(run, holder):
    with pytest.raises(ValueError, match=f"not be in use.* in which process {holder.pid} on .*"):
        claim(run)
    assert f"process {holder.pid} " in (run.path / "lock").read_text()  # still, for the next one
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    (run.path / "lock").write_bytes(b"process 1 on elsewhere, cut in the middle of \xc3")
    assert claim(run).startswith(f"process {os.getpid()} on ")


def test_the_lock_is_let_go_at_the_end_whatever_happened(run):
    def leave():
        with run.claimed(SETTINGS):
            with pytest.raises(ValueError, match="in use"):
                claim(Workdir(run.path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    claim(Workdir(run.path))


def test_systems_without_such_locks_can_train_too(run, monkeypatch):
    monkeypatch.setattr(workdir, "fcntl", None)
    claim(run)


@pytest.mark.parametrize(
    "left", [["lock"], [abandoned("config.json")], ["lock", "config.partial.json"]]
)
def test_what_a_killed_process_leaves_is_no_obstacle(left, run):
    run.path.mkdir(parents=True)
    for name in left:
        (run.path / name).write_text('{"settings": {"da')
        os.utime(run.path / name, (1e9, 1e9))
    run.check(SETTINGS)
    claim(run)
    assert run.read_settings() == SETTINGS
    assert {path.name for path in run.path.iterdir()} == {"config.json", "lock", "plots"}


@pytest.mark.parametrize("name", ["thesis.tex", "config.json.bak", "checkpoints"])
def test_other_files_are_refused(name, run):
    run.path.mkdir(parents=True)
    (run.path / name).write_text("all my work")
    for refused in (run.check, lambda settings: claim(run, settings)):
        with pytest.raises(ValueError, match=r"must be new, empty, or hold a run.*other files"):
            refused(SETTINGS)
    assert [path.name for path in run.path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SETTINGS | {"epochs": 4}, r"with epochs=3\. Received: epochs=4\."),
        (SETTINGS | {"rate": 0.1}, r"lacks the setting rate"),
        ({"data": "digits"}, r"has the setting epochs"),
    ],
)
def test_other_settings_are_refused(settings, words, run):
    claim(run)
    before = run.config.read_bytes()
    for refused in (run.check, lambda settings: claim(run, settings)):
        with pytest.raises(ValueError, match=words):
            refused(settings)
    assert run.config.read_bytes() == before


IMAGES = {"training": {"images": 1297, "fingerprint": "ab"}}


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES, None),
        (None, None),
        ({"training": {"images": 648, "fingerprint": "cd"}}, "Received: 648 images"),
        ({"training": {"images": 1297, "fingerprint": "cd"}}, "Received: 1,297 other images"),
        (IMAGES | {"test": {"images": 9, "fingerprint": "ef"}}, None),  # not recorded
    ],
)
def test_other_images_are_refused(images, words, run):
    with run.claimed(SETTINGS, IMAGES):
        assert run.read_images() == IMAGES
    refused = contextlib.nullcontext()
    if words:
        message = f"holds a run with 1,297 training images. {words}. Restore .* another --workdir"
        refused = pytest.raises(ValueError, match=message)
    with refused:
        run.check(SETTINGS, images)
    with refused, run.claimed(SETTINGS, images):
        pass
    assert run.read_images() == IMAGES


def test_runs_from_before_images_were_recorded_go_on(run):
    run.path.mkdir(parents=True)
    write_json(run.config, {"settings": SETTINGS, "versions": {}})
    assert run.read_images() == {}
    with run.claimed(SETTINGS, IMAGES):
        pass
    assert run.read_images() == {}
    write_json(run.config, {"settings": SETTINGS, "images": {"training": 3}})
    with pytest.raises(ValueError, match=r"config.json must describe a run's images"):
        run.check(SETTINGS, IMAGES)


def test_settings_that_another_process_recorded_in_the_meantime_count(run, monkeypatch):
    check, calls = run.check, []

    def check_and_be_overtaken(settings, images):
        check(settings, images)
        calls.append(settings)
        if len(calls) == 1:
            run.path.mkdir(parents=True)
            write_json(run.config, {"settings": SETTINGS | {"epochs": 9}, "versions": {}})

    monkeypatch.setattr(run, "check", check_and_be_overtaken)
    with pytest.raises(ValueError, match="epochs=9"):
        claim(run)


def test_a_damaged_config_is_named(run):
    run.path.mkdir(parents=True)
    for text in ("", "[]", '{"settings": 3}', '{"versions": {}}'):
        run.config.write_text(text)
        with pytest.raises(
            ValueError, match=r"config.json (is damaged|must hold a run's settings)"
        ):
            run.check(SETTINGS)


def edit(path, **entries):
    """Changes entries of a JSON file, or removes those that are None."""
    content = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({n: v for n, v in content.items() if v is not None}))


def test_a_changed_config_is_noticed_and_may_be_meant(run):
    with run.claimed(SETTINGS):
        run.write_summary({"loss": 1.5, "seconds_of_last_call": 9.5})
    other = SETTINGS | {"epochs": 4}
    edit(run.config, settings=other)
    with pytest.raises(
        ValueError, match=r"on purpose removes that entry.*choose another --workdir"
    ):
        run.read_settings()
    edit(run.config, sha256=None)
    assert run.read_settings() == other
    assert run.read_summary()["loss"] == 1.5


def test_files_of_two_runs_are_noticed(run, tmp_path):
    both = run, Workdir(tmp_path / "other")
    for one, seed in zip(both, (0, 1), strict=True):
        with one.claimed(SETTINGS | {"seed": seed}):
            one.write_summary({"loss": 1.5, "seconds_of_last_call": 9.5})
    run.config.write_bytes(both[1].config.read_bytes())
    for read in (run.read_settings, run.read_images, run.read_summary):
        with pytest.raises(ValueError, match=r"config.json and .*summary.json must be of one run"):
            read()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is damaged: it is not JSON"),
        ("{}", "must hold a run's final figures"),
        ('{"seconds_of_last_call": 1, "loss": "low"}', "\"loss\" is 'low'"),
        ('{"seconds_of_last_call": 1, "loss": NaN}', '"loss" is nan'),
        ('{"seconds_of_last_call": 1, "accuracies": {"a": {"knn": 1.5}}}', '"knn" is 1.5'),
        ('{"seconds_of_last_call": 1, "accuracies": 3}', '"accuracies" is 3'),
        ('{"seconds_of_last_call": 1, "steps": 1e999}', '"steps" is inf'),
    ],
)
def test_a_summary_without_a_checksum_is_checked_too(content, words, run):
    run.path.mkdir(parents=True)
    run.summary.write_text(content)
    with pytest.raises(ValueError, match=f"{words}.*Remove it, and the same command measures"):
        run.read_summary()


def test_a_damaged_model_is_not_used(tmp_path):
    path = tmp_path / "model.keras"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    workdir.save_model(model, path)
    content, weights = path.read_bytes(), model.get_weights()[0].tobytes()
    assert content.count(weights) == 1
    path.write_bytes(content.replace(weights, weights[::-1]))
    with pytest.raises(ValueError, match=r"its part model.weights.h5 is damaged"):
        workdir.load_model("backbone", path)


@pytest.fixture
def read_only():
    """A folder that may not be written to, also if root runs the tests: by another user then."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "run").mkdir()
        write_json(Workdir(f"{folder}/run").config, {"settings": SETTINGS, "versions": {}})
        for path in (f"{folder}/run/config.json", f"{folder}/run", folder):
            os.chmod(path, 0o555)
        if root:
            os.setresuid(65534, 65534, 0)
        try:
            yield pathlib.Path(folder)
        finally:
            if root:
                os.setresuid(0, 0, 0)
            os.chmod(folder, 0o755)
            os.chmod(f"{folder}/run", 0o755)


@pytest.mark.parametrize("name", ["", "run", "new", "new/run"])
def test_a_read_only_folder_is_refused(name, read_only):
    with pytest.raises(ValueError, match="workdir must be a folder that can be written to"):
        Workdir(read_only / name).check(SETTINGS)


def test_a_file_system_that_denies_it_only_when_it_comes_to_writing(read_only, monkeypatch):
    monkeypatch.setattr("keras_bt.workdir.check_writable", lambda *_, **__: None)
    for name in ("run", "new"):  # the error names the place
        with pytest.raises(OSError, match=f"Permission denied.*{read_only / name}"):
            claim(Workdir(read_only / name))


def test_a_full_disk_is_told_with_the_file(run):
    run.path.mkdir(parents=True)
    for limit, name in ((0, "lock"), (100, "config.json")):
        with file_size_limit(limit), pytest.raises(OSError, match=f"large: .*{name}"):
            claim(run)
        assert [path.name for path in run.path.iterdir()] == ["lock"]
    claim(run)
