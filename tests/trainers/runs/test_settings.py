"""Settings: the one place from which flags, help, limits, config.json and identity come."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest
from places import ROOT

from trainers.cli import command
from trainers.runs.fields import Settings, free, setting
from trainers.runs.objectives import OBJECTIVES, PARTICULAR
from trainers.runs.settings import FinetuningSettings, LinearProbeSettings, PretrainingSettings
from trainers.runs.verify_settings import VerifySettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Few(Settings):
    """A command's help."""

    name: str | None = setting(None, "A name.")
    count: int = setting(3, "A count.", least=1, most=9)
    share: float = setting(0.5, "A share.", above=0)
    kind: str = setting("a", "A kind.", choices=("a", "b"))
    fast: bool = setting(False, "Whether to hurry.", identity=False)
    epochs: tuple[int, ...] = setting((), "Some epochs.")
    weights: tuple[float, ...] = setting((1.0,), "Some weights.", least=0)
    size: int | tuple[int, int] = setting(32, "A size.", least=1)
    parts: tuple[str, ...] = free(("x", "y"), "Some parts.", choices=("x", "y", "z"))


def parsed(monkeypatch, *argv, settings_class=Few, **kwargs):
    """What a command gets that is called with these arguments."""
    got = []
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    command.run(lambda *given: got.extend(given), settings_class, **kwargs)
    return got[0] if len(got) == 1 else got


def test_flags_become_settings(monkeypatch):
    assert parsed(monkeypatch) == Few()
    flags = ["--name=x", "--count=4", "--share=2", "--kind=b", "--fast", "--epochs=7,14"]
    expected = Few(name="x", count=4, share=2.0, kind="b", fast=True, epochs=(7, 14))
    assert parsed(monkeypatch, *flags) == expected
    assert parsed(monkeypatch, "--parts=z,x").parts == ("z", "x")
    for text, size in (("64", 64), ("64x96", (64, 96)), ("64x64", 64)):
        found = parsed(monkeypatch, f"--size={text}")
        assert found.size == size
        assert Few.of_identity(found.identity()) == found
    assert Few(size=(64, 96)).identity()["size"] == [64, 96]
    assert parsed(monkeypatch, "--nofast", "a", positional=True) == [Few(), ["a"]]


def test_the_last_word_is_with_the_command_line(monkeypatch, tmp_path):
    (tmp_path / "other.flags").write_text("--count=5\n")
    (tmp_path / "some.flags").write_text(
        f"# why\n\n--flagfile={tmp_path / 'other.flags'}\n  --kind=b\n"
    )
    flagfile = f"--flagfile={tmp_path / 'some.flags'}"
    assert parsed(monkeypatch, flagfile, "--count=6") == Few(count=6, kind="b")
    found = parsed(
        monkeypatch,
        "--rate=1",
        settings_class=PretrainingSettings,
        default_recipe=lambda _: "digits",
    )
    assert (found.image_size, found.rate) == (8, 1.0)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--count=0", "--count must be at least 1. Received: --count=0"),
        ("--count=10", "--count must be at most 9. Received: --count=10"),
        ("--count=x", "--count=x"),
        ("--share=0", "--share must be a number > 0. Received: --share=0.0"),
        ("--share=inf", "--share must be finite. Received: --share=inf"),
        ("--share=nan", "--share must be finite. Received: --share=nan"),
        ("--share=1e10", "--share must be at most 1000000000. Received: --share=10000000000.0"),
        (f"--count={10**400}", "--count must be at most 9. Received: --count=1000"),
        (f"--count={'9' * 5000}", "--count must be a whole number"),
        ("--name=", "--name must be a text that is not empty. Received: --name="),
        ("--kind=c", "value should be one of <a|b>"),
        ("--epochs=7,x", "--epochs must be whole numbers such as 7,14,21. Received: --epochs=7,x"),
        ("--weights=1,x", "--weights must be numbers such as 25,25,1. Received: --weights=1,x"),
        ("--size=0", "--size must be at least 1. Received: --size=0"),
        ("--size=8x0", "--size must be at least 1. Received: --size=0"),
        ("--size=8×9", "64, or height x width such as 64x96. Received: --size=8×9"),
        ("--size=8x9x3", "64, or height x width such as 64x96. Received: --size=8x9x3"),
        ("--counts=3", "Did you mean: count"),
        ("count=3", "Flags must have the form --name=value. Received: count=3"),
        ("--flagfile=nowhere", "Received: --flagfile=nowhere (No such file or directory)"),
        ("--flagfile=.", "Received: --flagfile=. (Is a directory)"),
        ("--flagfile", "Received: --flagfile= (Is a directory)"),
        (
            "--flagfile=binary",
            "one a line. Received: --flagfile=binary (not UTF-8)",
        ),
        ("--flagfile=itself", "--flagfile must not include itself. Received: --flagfile=itself"),
    ],
)
def test_mistakes_end_in_one_line(monkeypatch, capsys, tmp_path, flag, words):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("binary").write_bytes(b"--count=5\n\xff\x00")
    pathlib.Path("itself").write_text("--count=5\n--flagfile=./itself\n")
    with pytest.raises(SystemExit, match="1"):
        parsed(monkeypatch, flag)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_python_is_told_the_same():
    with pytest.raises(ValueError, match=r"--count must be at least 1\. Received: --count=0"):
        Few(count=0)
    with pytest.raises(ValueError, match=r"--kind must be one of a, b\. Received: --kind=c"):
        Few(kind="c")
    with pytest.raises(ValueError, match=r"--parts must be among x, y, z\. Received: --parts=x,c$"):
        Few(parts=("x", "c"))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        *(("count", value, "int") for value in ("3", 2.5, True, None)),
        ("share", "0.5", "float"),
        ("name", 5, r"str \| None"),
        ("fast", 1, "bool"),
        ("epochs", 3, "tuple"),
        *(("size", value, r"int \| tuple\[int, int\]") for value in ("8x9", (8, 9, 3), (8, 9.5))),
    ],
)
def test_types_are_checked(name, value, kind):
    with pytest.raises(ValueError, match=f"--{name} must be of type {kind}. Received: --{name}="):
        Few(**{name: value})
    assert Few(share=1).share == 1  # an int is a number, too


def test_help_names_every_flag_its_limits_and_its_default(monkeypatch, capsys):
    parsed(monkeypatch, "--help")
    text = capsys.readouterr().out
    assert text.startswith(__doc__.splitlines()[0])
    assert "--count\n      A count. (≥ 1; ≤ 9; default 3)" in text
    assert "--kind\n      A kind. (a, b; default a)" in text
    assert "--parts\n      Some parts. (x, y, z; default x,y)" in text
    assert "--name\n      A name.\n" in text


def test_identity_holds_what_the_numbers_depend_on():
    identity = Few(epochs=(1, 2), fast=True).identity()
    assert list(identity) == ["count", "epochs", "kind", "name", "share", "size", "weights"]
    assert identity["epochs"] == [1, 2]
    assert Few.of_identity(identity | {"later": 1}, fast=True).identity() == identity
    # A run from before there was a setting did what its default does.
    earlier = {name: identity[name] for name in identity if name != "kind"}
    assert Few.of_identity(earlier) == Few(epochs=(1, 2))


def test_where_and_how_a_run_is_made_is_not_its_identity():
    free = {field.name for field in dataclasses.fields(PretrainingSettings)}
    for objective in OBJECTIVES:
        identity = PretrainingSettings(objective=objective).identity()
        assert set(OBJECTIVES[objective].settings) == identity.keys() & set(PARTICULAR)
        free -= identity.keys()
    assert free == {
        *("workdir", "data_dir", "strategy", "steps_per_execution", "log_every"),
        *("checkpoint_every", "checkpoint_minutes", "deterministic", "evaluate"),
        *("monitor_every", "monitor_images", "on_nonfinite", "remat", "max_unreadable"),
        "augment_on",
    }


def test_runs_from_before_there_were_objectives_and_with_their_own():
    identity = PretrainingSettings(redundancy_weight=0.01).identity()
    assert identity.pop("objective") == "barlow_twins"
    for earlier in (identity, identity | {"objective": {"name": "InfoNCE", "temperature": 0.2}}):
        found = PretrainingSettings.of_identity(earlier)
        assert found == PretrainingSettings(redundancy_weight=0.01)
    assert PretrainingSettings.of_identity({"objective": "dcl", "temperature": 1}).temperature == 1


@pytest.mark.parametrize(
    "settings",
    [
        FinetuningSettings(),
        FinetuningSettings(labels="5%", data="folder:/a b/c", image_size=(64, 96), head_rate=0.1),
        LinearProbeSettings(fast=True, draws=3, labels="10", deterministic=False),
        LinearProbeSettings(schedule="step", milestones=(3, 7), decay=0.5),
        PretrainingSettings(objective="vicreg", vicreg_weights=(10, 5.5, 1), form="gram"),
    ],
)
def test_flags_give_the_same_settings(settings, monkeypatch):
    found = []
    monkeypatch.setattr(sys, "argv", ["it", *settings.as_flags()])
    command.run(found.append, type(settings))
    assert found == [settings]
    flags = settings.as_flags(("labels",), seed=7, workdir="a b")
    assert {"--seed=7", "--workdir=a b"} <= set(flags)
    assert not [flag for flag in flags if flag.startswith("--labels")]


def test_what_a_recipe_says_for_another_objective_is_passed_over():
    recipe = f"--flagfile={command.RECIPES / 'fashion_mnist.flags'}"
    of_recipe, _ = command.parsed([recipe], PretrainingSettings)
    assert of_recipe.redundancy_weight != PretrainingSettings().redundancy_weight
    mixed, _ = command.parsed([recipe, "--objective=mixed"], PretrainingSettings)
    assert mixed.redundancy_weight == of_recipe.redundancy_weight
    for argv in ([recipe, "--objective=vicreg"], ["--objective", "vicreg", recipe]):
        vicreg, _ = command.parsed(argv, PretrainingSettings)
        assert (vicreg.objective, vicreg.rate) == ("vicreg", of_recipe.rate)
        assert "redundancy_weight" not in vicreg.identity()
        for typed in (["--redundancy_weight=0.01"], ["-redundancy_weight", "0.01"]):
            with pytest.raises(ValueError, match="--redundancy_weight applies to"):
                command.parsed([*argv, *typed], PretrainingSettings)


def test_a_flag_that_is_given_several_times(monkeypatch):
    settings, found = VerifySettings(reference=("a, b.png", "c.png"), image="d.png"), []
    flags = settings.as_flags()
    assert flags == ["--reference=a, b.png", "--reference=c.png", "--image=d.png"]
    monkeypatch.setattr(sys, "argv", ["it", *flags])
    command.run(found.append, VerifySettings)
    assert found == [settings]


def test_defaults_that_depend_on_other_settings():
    assert PretrainingSettings(epochs=300).warmup_epochs == 10
    assert PretrainingSettings(data="folder:/a b/c").workdir == "runs/folder_a_b_c"
    rates = {
        "cosine": FinetuningSettings(),
        "step": FinetuningSettings(schedule="step", head_rate=0.1),
        "scratch": FinetuningSettings(from_scratch=True, scratch_rate=0.2),
    }
    found = {name: (s.backbone_rate, s.head_rate) for name, s in rates.items()}
    assert found == {"cosine": (None, None), "step": (None, 0.1), "scratch": (0.2, 0.2)}
    assert dataclasses.replace(rates["scratch"], data="digits").head_rate == 0.2


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (PretrainingSettings, {"projector": "8-"}, "layer widths such as 8192-8192-8192"),
        (PretrainingSettings, {"warmup_epochs": 9.5, "epochs": 9}, "at most --epochs"),
        (
            PretrainingSettings,
            {"objective": "vicreg", "redundancy_weight": 0.01},
            "to --objective=barlow_twins or mixed. Received: --redundancy_weight=0.01, --obj.*vicr",
        ),
        (
            PretrainingSettings,
            {"temperature": 0.2},
            "=info_nce or dcl. Received: --temperature=0.2",
        ),
        (PretrainingSettings, {"objective": "dcl", "form": "gram"}, "Received: --form=gram"),
        (PretrainingSettings, {"mixed_weight": 1}, "to --objective=mixed. Received"),
        (PretrainingSettings, {"vicreg_weights": (1.0, 1, 1)}, "_weights=1.0,1,1, --obj"),
        (
            PretrainingSettings,
            {"objective": "vicreg", "vicreg_weights": (1.0,)},
            "three numbers such as 25,25,1. Received: --vicreg_weights=1.0$",
        ),
        (LinearProbeSettings, {"draws": 2}, "--draws requires --fast"),
        (LinearProbeSettings, {"schedule": "step"}, "must be given together.*milestones=$"),
        (LinearProbeSettings, {"milestones": (3,)}, "must be given together"),
        (FinetuningSettings, {"from_scratch": True, "head_rate": 0.1}, "takes a single rate"),
        (FinetuningSettings, {"scratch_rate": 0.1}, "--scratch_rate requires --from_scratch"),
    ],
)
def test_settings_that_do_not_go_together(kind, values, words):
    with pytest.raises(ValueError, match=words):
        kind(**values)


def test_no_tensorflow_for_a_mistake():
    code = "import sys, trainers.runs.settings, trainers.cli.command; print('keras' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
