"""Calls the real script on scikit-learn's digits with a tiny backbone."""

import dataclasses
import json
import re
import shutil
import types

import keras
import numpy as np
import pytest
import script
import undrawn
from PIL import Image

from keras_bt import data, workdir
from keras_bt.data.pairs import Pairs
from keras_bt.evaluation.verification import (
    choose_threshold,
    distances,
    reference_distances,
    verify,
)
from keras_bt.evaluation.whitening import Whitening
from trainers.runs import subject, verifying, verifying_report
from trainers.runs.pair_settings import SiameseSettings
from trainers.runs.verify_settings import VerifySettings

DIGITS = ["--data=digits", "--image_size=8"]
FEW = ["--unseen=2,4,6", "--pairs=600", "--references=1,3"]


def save(path, seed):
    """Writes a network, a random projection of 8 × 8 pixels."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(12)]
    path.parent.mkdir(parents=True, exist_ok=True)
    keras.Sequential(layers).save(path)
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save(tmp_path_factory.mktemp("backbone") / "tiny.keras", seed=0)


@pytest.fixture(scope="module")
def measured(backbone):
    """The figures of the backbone, and where they are."""
    out = backbone.parent / "evaluation" / "verify.json"
    with undrawn.pictures():
        script.call("verify", f"--backbone={backbone}", *DIGITS, *FEW, f"--out={out}")
    return json.loads(out.read_text())


def embedded(network, source):
    images = np.repeat(source.images, 3, axis=-1)  # 8 × 8 already
    return keras.models.load_model(network)(data.normalize(images)).numpy()


def as_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.slow
def test_figures_are_those_of_held_out_classes(backbone, measured):
    parts = data.paired_parts(*data.open_source("digits"), "2,4,6", pairs=600)
    pairs = parts.validation.pairs, parts.test.pairs
    sources = parts.validation.source, parts.test.source
    whiten = Whitening.fit(embedded(backbone, parts.train.source))
    plain = [embedded(backbone, source) for source in sources]
    expected = {
        "raw pixels": [data.raw_pixels(source)[0] for source in sources],
        "backbone": plain,
        "backbone, whitened": [whiten(features) for features in plain],
    }
    assert list(measured["embeddings"]) == list(expected)
    for name, arrays in expected.items():
        found = measured["embeddings"][name]
        of = [(distances(a, p), p.same) for a, p in zip(arrays, pairs, strict=True)]
        threshold = choose_threshold(*of[0])
        assert found["threshold"] == pytest.approx(threshold, abs=1e-5)
        for part, one in zip(("validation", "test"), of, strict=True):
            figures = as_json(dataclasses.asdict(verify(*one, threshold)))
            for figure, value in figures.items():
                assert found[part][figure] == pytest.approx(value, abs=0.005), figure
        nearest, mean, same = zip(
            *(
                reference_distances(a, s.labels(), 3, seed=0)
                for a, s in zip(arrays, sources, strict=True)
            ),
            strict=True,
        )
        for how, both in (("nearest", nearest), ("mean", mean)):
            chosen = choose_threshold(both[0], same[0])
            row = found["references"]["3"][how]
            assert row["threshold"] == pytest.approx(chosen, abs=1e-4)
            assert row["test"]["eer"] == pytest.approx(verify(both[1], same[1]).eer, abs=0.005)
        assert list(found["references"]) == ["1", "3"]
    assert measured["embeddings"]["backbone"]["sha256"] == measured["backbone_sha256"]
    assert "classes that were not trained on: 2, 4, 6" in measured["measured_on"]
    folder = backbone.parent / "evaluation"
    kinds = ("roc.png", "distances.png", "mistakes.png", "whitening.npz")
    assert {p.name for p in folder.iterdir()} == {"verify.json", *(f"verify_{k}" for k in kinds)}


@pytest.mark.slow
def test_the_table_shows_what_the_file_says(backbone, measured, capsys, monkeypatch):
    monkeypatch.setattr(verifying_report, "draw", lambda *arguments: [])  # it takes seconds
    flags = ["--unseen=2,4,6", "--pairs=150", "--references=60", "--noraw_pixels"]
    script.call("verify", f"--backbone={backbone}", *DIGITS, *flags)
    output = capsys.readouterr().out
    name = "verify_unseen=2,4,6_pairs=150_references=60_raw_pixels=False.json"
    path = backbone.parent / "evaluation" / name
    assert f"Written to {path}" in output
    assert f"--thresholds={path}" in output
    found = json.loads(path.read_text())["embeddings"]
    assert list(found) == ["backbone", "backbone, whitened"]
    cells = [re.split(r"  +", line.strip()) for line in output.splitlines()]
    for name, row in found.items():
        test = row["test"]
        assert test["true_accepts"] == {"0.01": None, "0.001": None}
        shown = [f"{test['auc']:.4f} ± {test['auc_deviation']:.4f}"]
        for figure in ("eer", "accuracy"):
            shown.append(f"{100 * test[figure]:.1f} ± {100 * test[f'{figure}_deviation']:.1f}")
        assert [name, *shown[:2], "–", "–", shown[2]] in cells, output
        assert row["references"] == {}
    assert "– takes more pairs of different things: 100 for 1%" in output
    assert "Not compared with 60 references of each class: there are too few images." in output
    # What is there is not replaced by other figures.
    line = script_mistake(capsys, backbone, *FEW, "--pairs=700", f"--out={path}")
    assert "holds figures made with pairs=150. Received: pairs=700" in line


def script_mistake(capsys, backbone, *flags):
    return script.mistake(capsys, "verify", f"--backbone={backbone}", *DIGITS, *flags)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Digits as PNG files, by (class, number): gray, and some in color and transparent."""
    folder, (_, test) = tmp_path_factory.mktemp("pictures"), data.open_source("digits")
    files = {}
    for digit in (2, 4):
        for number, place in enumerate(np.flatnonzero(test.labels() == digit)[:4]):
            image = Image.fromarray(test.images[place, :, :, 0])
            files[digit, number] = folder / f"{digit}_{number}, a.png"
            image.convert(("L", "RGB", "RGBA", "P")[number]).save(files[digit, number])
    return files


@pytest.mark.parametrize(
    ("embedding", "kind", "digit", "count"),
    [
        ("backbone", "backbone", 2, 3),
        (None, "backbone", 4, 1),
        ("whitened", "backbone, whitened", 4, 2),
    ],
)
def test_one_image_is_judged_by_the_threshold(
    backbone, measured, pictures, tmp_path, capsys, embedding, kind, digit, count
):
    test = data.open_source("digits")[1]
    embeddings, places = (
        embedded(backbone, test),
        [np.flatnonzero(test.labels() == one) for one in (2, digit)],
    )
    if embedding == "whitened":
        with np.load(backbone.parent / "evaluation" / "verify_whitening.npz") as arrays:
            embeddings = Whitening.from_arrays(arrays)(embeddings)
    image, references = places[0][0], places[1][1 : 1 + count]
    expected = distances(embeddings, Pairs(np.full(count, image), references, np.ones(count, bool)))
    out = tmp_path / "answer.json"
    flags = [f"--reference={pictures[digit, 1 + number]}" for number in range(count)]
    flags += [f"--image={pictures[2, 0]}", f"--out={out}"]
    flags += [f"--embedding={embedding}"] * (embedding is not None)
    script.call("verify", f"--backbone={backbone}", *flags)
    answer, output = json.loads(out.read_text()), capsys.readouterr().out
    assert answer["embedding"] == kind
    found = [one["distance"] for one in answer["references"]]
    assert found == pytest.approx(expected, abs=1e-5)
    row = measured["embeddings"][kind]
    for how, distance in (("nearest", min(expected)), ("mean", np.mean(expected))):
        by = row["references"]["3"][how] if count == 3 else row
        assert answer[how]["distance"] == pytest.approx(distance, abs=1e-5)
        assert answer[how]["threshold"] == by["threshold"]
        assert answer[how]["accepted"] == (distance <= by["threshold"])
        assert answer[how]["false_accepts"] == by["test"]["false_accepts"]
        words = "accepted" if answer[how]["accepted"] else "not accepted"
        assert f"threshold {by['threshold']:.4f}: {words} (with " in output
    assert output.startswith(f"Compared by: {kind}.\n")
    assert ("threshold is that of single pairs" in output) == (count == 2)


@pytest.fixture(scope="module")
def trained(backbone, tmp_path_factory):
    """The folder of a run of trainers.siamese, as far as it is looked at here."""
    run = workdir.Workdir(tmp_path_factory.mktemp("siamese"))
    save(run.backbone, seed=1)
    settings = {"data": "digits", "image_size": 8, "unseen": "2,4,6", "seed": 3}
    settings["backbone_sha256"] = subject.sha256(backbone)
    workdir.write_record(run.config, {"settings": settings})
    run.write_summary({"backbone": str(backbone), "seconds_of_last_call": 1.0})
    return run


@pytest.mark.slow
def test_trained_embeddings_are_measured_beside_those_they_began_with(
    backbone, trained, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(verifying_report, "draw", lambda *arguments: [])
    flags = ["--pairs=600", "--references=1"]
    script.call("verify", f"--backbone={trained.path}", *flags)
    path = trained.path / "evaluation" / "verify_pairs=600_references=1.json"
    found = json.loads(path.read_text())
    assert (found["settings"]["unseen"], found["settings"]["seed"]) == ("2,4,6", 3)
    rows = found["embeddings"]
    assert list(rows) == ["raw pixels", "backbone", "backbone, whitened", "trained on pairs"]
    assert rows["backbone"]["file"] == str(backbone)
    assert rows["trained on pairs"]["sha256"] == found["backbone_sha256"]
    parts = data.paired_parts(*data.open_source("digits"), "2,4,6", seed=3, pairs=600)
    for name, network in (("backbone", backbone), ("trained on pairs", trained.backbone)):
        of = distances(embedded(network, parts.test.source), parts.test.pairs)
        assert rows[name]["test"]["auc"] == pytest.approx(
            verify(of, parts.test.pairs.same).auc, abs=1e-4
        )
    # For one pair, the backbone that the run began with is found again.
    pair = [f"--reference={pictures[2, 0]}", f"--image={pictures[4, 1]}", f"--thresholds={path}"]
    answers = []
    for flags in ([], ["--embedding=whitened"]):
        out = tmp_path / f"{len(flags)}.json"
        script.call("verify", f"--backbone={trained.path}", *pair, *flags, f"--out={out}")
        answers.append(json.loads(out.read_text()))
    assert answers[0]["nearest"]["threshold"] == rows["trained on pairs"]["threshold"]
    assert answers[0]["mean"]["distance"] != answers[1]["mean"]["distance"]
    # It must be where it was.
    record = workdir.read_record(path)
    record["embeddings"]["backbone"]["file"] = str(tmp_path / "gone.keras")
    workdir.write_record(tmp_path / "figures.json", record)
    pair[-1] = f"--thresholds={tmp_path / 'figures.json'}"
    flags = [f"--backbone={trained.path}", *pair, "--embedding=backbone"]
    assert f"there is no {tmp_path / 'gone.keras'}" in script.mistake(capsys, "verify", *flags)


OF_THE_RUN = [
    ({}, ("2,4,6", 3)),
    ({"data": "heldout:300:digits"}, ("2,4,6", 3)),
    ({"data": "heldout:digits", "seed": 3, "unseen": "2,4,6"}, ("2,4,6", 3)),
    ({"data": "heldout:digits", "unseen": "1,2"}, "--unseen must be as in the run"),
    ({"seed": 1}, "--seed must be as in the run"),
    ({"data": "folder:x"}, "--unseen must name classes .* all but unseen=2,4,6, .* seed=3"),
    ({"data": "folder:x", "unseen": "3"}, "Received: --data=folder:x and --unseen=3"),
    ({"data": "folder:x", "unseen": "cat,dog", "seed": 1}, ("cat,dog", 1)),
    ({"data": "pairs:x.csv"}, (None, 0)),
]


@pytest.mark.parametrize("kind", [VerifySettings, SiameseSettings])
@pytest.mark.parametrize(("given", "expected"), OF_THE_RUN)
def test_classes_that_a_run_was_trained_on_are_not_judged(trained, kind, given, expected):
    settings = kind(backbone=str(trained.path), **given)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            subject.of_the_run(settings)
    else:
        found = subject.of_the_run(settings)
        assert (found.unseen, found.seed) == expected


def test_another_backbone_is_not_the_one_that_a_run_began_with(backbone, tmp_path, capsys):
    run = workdir.Workdir(tmp_path)
    workdir.write_record(run.config, {"settings": {"backbone_sha256": "0"}})
    run.write_summary({"backbone": str(backbone), "seconds_of_last_call": 1.0})
    assert verifying.started_from(types.SimpleNamespace(folder=tmp_path)) is None
    assert "tiny.keras has changed since" in capsys.readouterr().out


def write_pairs(folder, rows):
    random = np.random.default_rng(0)
    for number in range(8):
        pixels = random.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    lines = ["path_a,path_b,same,split", *rows]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return f"--data=pairs:{folder / 'pairs.csv'}"


@pytest.mark.slow
def test_pairs_of_a_table_have_no_references(backbone, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verifying_report, "draw", lambda *arguments: [])  # it takes seconds
    rows = [f"{a}.png,{b}.png,{(a + b) % 2},train" for a in range(5) for b in range(a)]
    rows += ["7.png,0.png,0,test", "7.png,4.png,1,test"]
    rows += ["5.png,6.png,1,test", "5.png,0.png,0,test", "6.png,0.png,0,test"]
    spec = write_pairs(tmp_path, rows)
    (tmp_path / "7.png").write_bytes(b"no image")  # its pairs are left out
    out = tmp_path / "verify.json"
    flags = [f"--out={out}", f"--cache_dir={tmp_path / 'cache'}", "--image_size=8"]
    script.call("verify", f"--backbone={backbone}", spec, *flags)
    found = json.loads(out.read_text())["embeddings"]["backbone"]
    assert (found["test"]["same_pairs"], found["test"]["different_pairs"]) == (1, 2)
    pairs = Pairs(*np.array([[0, 0, 1], [1, 2, 2]]), np.array([True, False, False]))
    images = np.array([np.asarray(Image.open(tmp_path / f"{n}.png")) for n in (5, 6, 0)])
    images = data.normalize(data.center_crop(images, 8))
    expected = distances(keras.models.load_model(backbone)(images).numpy(), pairs)
    expected = verify(expected, pairs.same, found["threshold"])
    assert found["test"] == as_json(dataclasses.asdict(expected))
    assert found["references"] == {}
    assert "references of each class" not in capsys.readouterr().out


@pytest.mark.slow
def test_whitening_is_fitted_to_images_of_training_pairs(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying_report, "draw", lambda *arguments: [])
    rows = ["0.png,1.png,1", "2.png,3.png,1", "4.png,5.png,0", "6.png,7.png,0"]  # half held out
    rows = [f"{row},{split}" for row in rows for split in ("train", "test")]
    spec = write_pairs(tmp_path, rows)
    parts = data.paired_parts(*data.open_source(spec.partition("=")[2]))
    broken, *fitted = np.unique([parts.train.pairs.first, parts.train.pairs.second])
    (tmp_path / f"{broken}.png").write_bytes(b"no image")
    flags = [f"--out={tmp_path / 'v.json'}", f"--cache_dir={tmp_path / 'cache'}", "--image_size=8"]
    script.call("verify", f"--backbone={backbone}", spec, *flags, "--noraw_pixels")
    images = np.array([np.asarray(Image.open(tmp_path / f"{n}.png")) for n in fitted])
    images = data.normalize(data.center_crop(images, 8))
    expected = keras.models.load_model(backbone)(images).numpy().mean(axis=0)
    with np.load(tmp_path / "v_whitening.npz") as arrays:
        np.testing.assert_allclose(arrays["mean"], expected, atol=1e-4)


def test_a_threshold_of_another_embedding_is_refused(
    backbone, measured, pictures, tmp_path, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(backbone.parent, copy)
    pair = [f"--reference={pictures[2, 0]}", f"--image={pictures[2, 1]}"]
    figures = copy / "evaluation" / "verify.json"
    make = f"python -m trainers.verify --backbone={copy / 'tiny.keras'}"

    def refused(*flags):
        return script.mistake(capsys, "verify", f"--backbone={copy / 'tiny.keras'}", *pair, *flags)

    line = refused("--image_size=16x8")
    assert f"{figures} is of another embedding: image_size=8. Received: image_size=16x8" in line
    assert f"by: {make}" in line
    assert "exif=ignore. Received: exif=apply" in refused("--exif=apply")
    assert "one of those in" in refused("--embedding=trained")
    (copy / "notes.json").write_text("{}")
    assert "of another command" in refused(f"--thresholds={copy / 'notes.json'}")
    assert "must be new, or hold an answer" in refused(f"--out={figures}")
    with open(copy / "evaluation" / "verify_whitening.npz", "ab") as file:
        file.write(b"more")
    assert "the whitening in verify_whitening.npz" in refused("--embedding=whitened")
    save(copy / "tiny.keras", seed=5)
    line = refused("--embedding=backbone")
    assert f"SHA-256 {measured['backbone_sha256'][:12]}…. Received: {copy / 'tiny.keras'}" in line
    figures.unlink()
    assert f"Received: none, as there is no {figures}; make it by: {make}" in refused()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image={2}"], "Received: --image without --reference"),
        (["--reference={2}"], "Received: --reference without --image"),
        (["--image=", "--reference={2}"], "--image must be a text that is not empty"),
        (["--image={2}", "--reference="], "--reference must be a text that is not empty"),
        (["--image={2}", "--reference={2}", "--pairs=9"], "must not be given with --image"),
        (["--embedding=whitened"], "--embedding requires --image"),
        (["--image={2}", "--reference=gone.png"], "Received: gone.png (No such file"),
        (["--image={2}", "--reference={2}", "--reference=."], "--reference must be an image"),
        ([*DIGITS, "--unseen=2,x"], "which is none in digits"),
        ([*DIGITS, "--references=0"], "--references must be at least 1"),
        ([*DIGITS, "--out={folder}"], "a folder"),
        (["--data=folder:{folder}/one/train/cats", "--image_size=8"], "which has no labels"),
        (["--data=folder:{folder}/one", "--image_size=8"], "all of one class"),
        (["--data=pairs:{folder}/alike.csv", "--image_size=8"], "none of different things"),
        (["--data=pairs:{folder}/gone.csv", "--image_size=8"], "lost.png in row 2"),
    ],
)
def test_mistakes_are_one_line(backbone, measured, pictures, tmp_path, capsys, flags, message):
    (tmp_path / "one" / "train" / "cats").mkdir(parents=True)
    for name in ("a.png", "b.png", "one/train/cats/a.png", "one/train/cats/b.png"):
        shutil.copy(pictures[2, 0], tmp_path / name)
    (tmp_path / "alike.csv").write_text("path_a,path_b,same\na.png,b.png,1\n")
    (tmp_path / "gone.csv").write_text("path_a,path_b,same\na.png,lost.png,1\n")
    given = [flag.replace("{2}", str(pictures[2, 0])) for flag in flags]
    given = [flag.replace("{folder}", str(tmp_path)) for flag in given]
    line = script.mistake(capsys, "verify", f"--backbone={backbone}", *given)
    assert message in line
    assert not capsys.readouterr().out
