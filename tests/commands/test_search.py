"""`bioclip-lite search`: trials of every kind of training, shared among participants, from splits train and val."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from bioclip_lite import params
from bioclip_lite.commands import search as command
from bioclip_lite.search import results, space, study
from bioclip_lite.stages import distill, prune, teacher
from bioclip_lite.training import checkpoint
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table
from bioclip_lite.utils.yaml_files import dump, read
from support import checkout, lessons

TINY = checkout.ROOT / "tests" / "tiny.yaml"
RATES: dict[str, space.Values] = {"distill.learning_rate": {"low": 0.0001, "high": 0.01, "log": True}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder without the photographs that no search may see."""
    data = lessons.make_cache(lessons.make_data(tmp_path_factory.mktemp("made") / "data"))
    for unseen in ("test", "calibration"):
        for path in data.rglob(f"{unseen}-*"):
            path.unlink()
    return data


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the data and the parameters, the current one; temporary files are below it."""
    shutil.copytree(made, tmp_path / "data")
    shutil.copyfile(TINY, tmp_path / "params.yaml")
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path


def write_space(**content: Any) -> str:
    Path("space.yaml").write_text(dump(content))
    return "space.yaml"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path = Path("data/search/space")) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(folder / "trials.parquet").to_pylist()
    return found


def test_the_best_of_three_trials_becomes_parameters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder / "data")
    # At this temperature the loss is no number.
    searched = {**RATES, "distill.temperature": [1.0, 1e-40], "distill.betas": [[0.9, 0.98], [0.9, 0.999]]}
    file = write_space(trials=3, seed=1, parameters=searched)
    assert command.main([file]) == 0
    found = {row["trial"]: row for row in rows()}
    assert [*found] == [0, 1, 2]
    complete = [row for row in found.values() if row["state"] == "complete"]
    assert {row["distill.temperature"] for row in complete} == {"1.0"}
    assert all(len(row["val_top1_by_epoch"]) == 2 for row in complete)
    assert all(row["val_top1"] == row["val_top1_by_epoch"][-1] for row in complete)
    failed = [row for row in found.values() if row["state"] == "fail"]
    assert failed and all("the loss is nan in epoch 1" in row["reason"] for row in failed)
    highest = max(row["val_top1"] for row in complete)
    best = [row for row in complete if row["val_top1"] == highest]
    chosen = params.load(Path("data/search/space/params.yaml"))
    assert chosen["distill"]["learning_rate"] in [row["distill.learning_rate"] for row in best]
    assert chosen["distill"]["temperature"] == 1.0
    assert {**chosen["distill"], **dict.fromkeys(("learning_rate", "temperature", "betas"), 0)} == {
        **params.load(TINY)["distill"],
        **dict.fromkeys(("learning_rate", "temperature", "betas"), 0),
    }
    assert Path("data/search/space/trials.png").read_bytes().startswith(b"\x89PNG")
    assert "trained to their end" in Path("data/search/space/trials.md").read_text()
    after = contents(folder / "data")
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"search"}
    assert not [*(folder / "scratch").iterdir()]
    assert Path("params.yaml").read_bytes() == TINY.read_bytes()

    capsys.readouterr()
    assert command.main([file]) == 0  # all trials are there
    assert "search: trial" not in capsys.readouterr().out
    with Path("data/search/space/params.yaml").open("a") as edited:
        edited.write("# mine\n")
    assert command.main([file]) == 1
    assert "params.yaml is there already, was not written by this command" in capsys.readouterr().err
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("epochs: 2\n", "epochs: 3\n"))
    assert command.main([file, "--storage", "data/search/space/journal.jsonl"]) == 1


def test_two_participants_share_the_trials_and_a_seed_repeats_them(folder: Path) -> None:
    file = write_space(trials=3, parameters=RATES)
    arguments = [file, "--storage", "shared/journal.jsonl"]
    environment = checkout.environment(checkout.ROOT) | {"PYTHONPATH": str(checkout.ROOT / "workflow")}
    other = subprocess.Popen(
        [sys.executable, "-m", "bioclip_lite", "search", *arguments],
        env=environment | {"TMPDIR": str(folder / "scratch")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert command.main(arguments) == 0
    said = other.communicate(timeout=120)[0]
    assert other.returncode == 0, said
    together = rows(Path("shared"))
    assert [row["state"] for row in together] == ["complete"] * 3
    # Values of the sampler's first trials depend on seed and number alone.
    chosen = space.Space("distill", 3, 0, "median", RATES)
    alone = opened(folder / "alone.jsonl", chosen)
    study.participate(alone, chosen, lambda trial, values: 0.5)
    assert [row["distill.learning_rate"] for row in together] == [
        trial.params["distill.learning_rate"] for trial in alone.trials
    ]


def test_pruning_and_text_towers_are_searched_as_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So small a student may be no faster when it is pruned, for which stage prune refuses it.
    monkeypatch.setattr(prune, "_race", lambda *models: {"ratio": 0.5, "low": 0.5, "high": 0.5, "n": 1})
    given: dict[str, Any] = read(TINY)
    distill.run({**lessons.DISTILL, "epochs": 1}, folder / "data", "student")
    file = write_space(trials=2, parameters={"prune.learning_rate": [0.001, 0.0001], "prune.steps": [1, 2]})
    given["prune"] = {"budget": {"macs": 0.5}, "epochs": 2, "batch_size": 16}
    Path("params.yaml").write_text(dump(given))
    assert command.main([file]) == 0
    for row in rows():  # epochs of earlier rounds, which end above the budget, are not compared
        assert len(row["val_top1_by_epoch"]) == {"1": 2, "2": 1}[row["prune.steps"]]

    teacher.run(lessons.TEACHER, folder / "data")
    weights = folder / "data" / "weights"
    weights.mkdir()
    shutil.copyfile(folder / "data/teacher/model/open_clip_model.safetensors", weights / "tower.safetensors")
    shutil.rmtree(folder / "data" / "teacher")
    trained = lessons.TEACHER["train"]["image_tower"]
    given["teacher"]["kind"] = "lit"
    given["teacher"]["lit"] |= {"image_tower": trained, "weights": "tower.safetensors"}
    Path("params.yaml").write_text(dump(given))
    file = write_space(trials=2, parameters={"teacher.lit.warm_up": [0.0, 0.5], "teacher.lit.image_size": [32, 64]})
    assert command.main([file, "--storage", "tower/journal.jsonl"]) == 0
    assert [len(row["val_top1_by_epoch"]) for row in rows(Path("tower"))] == [2, 2]
    assert not (folder / "data" / "teacher").exists()


# ---- participants


def small(trials: int = 6, **more: Any) -> space.Space:
    parameters: dict[str, Any] = {"distill.epochs": {"low": 1, "high": 100, "int": True}}
    return space.Space("distill", trials, 0, more.get("pruner", "none"), parameters)


def opened(path: Path, chosen: space.Space, about: str = "a") -> optuna.Study:
    return study.open_study(path, chosen, {"parameters": about}, 100)


def states(trials: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.counted(trials)]


def test_many_participants_train_as_many_trials_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_SECONDS_OF_SILENCE", 5.0)
    path, begun = tmp_path / "journal.jsonl", []

    def run(trial: optuna.Trial, values: dict[str, Any]) -> float:
        begun.append(values["distill.epochs"])
        threading.Event().wait(0.02)
        return 0.5

    opened(path, small())
    threads = [
        threading.Thread(target=lambda: study.participate(opened(path, small(15)), small(15), run)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 15 and states(opened(path, small())) == ["COMPLETE"] * 15


def test_a_killed_trial_is_tried_again_with_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tried = tmp_path / "journal.jsonl", []
    pid = os.fork()
    if pid == 0:

        def die(trial: optuna.Trial, values: dict[str, Any]) -> float:
            if trial.number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return 0.1

        study.participate(opened(path, small()), small(), die)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    (killed,) = opened(path, small()).get_trials(states=[TrialState.RUNNING])

    def run(trial: optuna.Trial, values: dict[str, Any]) -> float:
        tried.append(values)
        return 0.2

    monkeypatch.setattr(study, "_SECONDS_OF_SILENCE", 0.2)
    study.participate(opened(path, small()), small(), run)
    assert killed.params in tried and len(tried) == 5
    assert states(opened(path, small())) == ["COMPLETE"] * 6


def test_a_participant_that_is_alive_is_waited_for_no_longer_than_a_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "_SECONDS_BETWEEN_BEATS", 0.05)
    monkeypatch.setattr(study, "_SECONDS_OF_SILENCE", 30.0)
    path, done = tmp_path / "journal.jsonl", threading.Event()

    def wait(trial: optuna.Trial, values: dict[str, Any]) -> float:
        done.wait(60)
        return 0.3

    other = threading.Thread(target=lambda: study.participate(opened(path, small(1)), small(1), wait))
    other.start()
    trials = opened(path, small(1))
    while not trials.get_trials(deepcopy=False):
        done.wait(0.01)
    study.participate(trials, small(1), wait)  # returns while the other one still trains
    assert states(trials) == ["RUNNING"]
    done.set()
    other.join()
    assert states(trials) == ["COMPLETE"]


@pytest.mark.parametrize("pruner", space.PRUNERS)
def test_failures_and_early_ends_count_and_a_stop_does_not(pruner: str, tmp_path: Path) -> None:
    path, chosen = tmp_path / "journal.jsonl", small(8, pruner=pruner)
    trials = opened(path, chosen)

    def run(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number == 0:
            raise UserError("diverged\nsecond line")
        if trial.number == 1:
            raise RuntimeError("out of memory")
        if trial.number == 2:
            raise KeyboardInterrupt
        for epoch in (1, 2):
            trial.report(1 / trial.number, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        trial.set_user_attr(study.FIGURES, {"val_nll": 1.0})
        return 1 / trial.number

    with pytest.raises(KeyboardInterrupt):
        study.participate(trials, chosen, run)
    with pytest.raises(UserError, match="none of 2 trials was trained to its end: diverged; out of memory"):
        results.best(trials, "distill")
    study.participate(trials, chosen, run)
    early = {"median": ["PRUNED"], "none": ["COMPLETE"]}
    assert states(trials)[:3] == ["FAIL", "FAIL", "COMPLETE"] and len(states(trials)) == 8
    assert pruner not in early or states(trials)[3:] == [*["COMPLETE"] * 4, *early[pruner]]
    assert trials.trials[3].params == trials.trials[2].params
    assert results.best(trials, "distill").number == 3
    results.write(trials, chosen, {"distill.epochs": 7}, read(TINY), tmp_path)
    assert params.load(tmp_path / "params.yaml")["distill"]["epochs"] == 7
    assert "| 0 |  | 0 |" in (tmp_path / "trials.md").read_text()


def test_among_equals_the_surer_one_is_the_best(tmp_path: Path) -> None:
    trials = opened(tmp_path / "journal.jsonl", small(3))

    def run(trial: optuna.Trial, values: dict[str, Any]) -> float:
        trial.set_user_attr(study.FIGURES, {"val_nll": [3.0, 1.0, 2.0][trial.number]})
        return 0.5

    study.participate(trials, small(3), run)
    assert results.best(trials, "distill").number == 1


def test_another_search_does_not_join(tmp_path: Path) -> None:
    opened(tmp_path / "journal.jsonl", small())
    with pytest.raises(UserError, match=r"journal\.jsonl holds a search with other parameters; name another file"):
        opened(tmp_path / "journal.jsonl", small(), "b")


# ---- spaces


def test_the_example_of_the_documentation_is_a_space(tmp_path: Path) -> None:
    text = (checkout.ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    (tmp_path / "rates.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    found = space.read_space(tmp_path / "rates.yaml", params.load(checkout.ROOT / "params.yaml"))
    assert (found.training, found.trials, found.pruner, len(found.parameters)) == ("distill", 20, "median", 4)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"parameters": {}}, "parameters must name what to search"),
        ({"parameters": RATES, "trails": 3}, "unknown trails; known are trials, seed, pruner, parameters"),
        ({"parameters": RATES, "trials": 0}, "trials is 0; it must be a whole number, at least 1"),
        ({"parameters": RATES, "pruner": "best"}, "one of median, hyperband, none"),
        ({"parameters": {"distill.learning_rat": [1, 2]}}, "distill has unknown learning_rat; known are student,"),
        ({"parameters": {"distill.learning_rate": [-1, 0.1]}}, "distill.learning_rate is -1; it must be"),
        ({"parameters": {"distill.epochs": {"low": 1, "high": 9}}}, "of type integer (say int: true)"),
        ({"parameters": {"distill.batch_size": {"low": 0, "high": 9, "int": True}}}, "distill.batch_size is 0"),
        ({"parameters": {"distill.student": {"low": 1, "high": 9}}}, "distill.student is 1; it must be of type string"),
        ({"parameters": {"distill.student.x": [1, 2]}}, "student is 'mobilenetv4_conv_small_050', which has no"),
        ({"parameters": {"distill.epochs": [1]}}, "a list of at least two different values, or {low: NUMBER"),
        ({"parameters": {"distill.ema": {"low": 0, "high": 0.9, "log": True}}}, "must begin above 0"),
        ({"parameters": {"logits.views": [1, 2]}}, "has logits.views; what can be searched are the parameters of"),
        ({"parameters": {**RATES, "prune.epochs": [1, 2]}}, "search one stage at a time"),
        ({"parameters": {"prune.budget": [{"macs": 0.5}, {"macs": 0.7}]}}, "accuracy is compared at one budget"),
        ({"parameters": {"teacher.lit.epochs": [1, 2]}}, "but teacher.kind is train; set it to lit"),
    ],
)
def test_mistakes_in_a_space_are_named(
    content: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        space.read_space(Path(write_space(**content)), params.load(TINY))
    assert str(raised.value).startswith("space.yaml: ") and says in str(raised.value)


def test_a_participant_that_is_asked_to_stop_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_space(trials=1, parameters=RATES)
    with monkeypatch.context() as patch:
        patch.setenv(checkpoint.END_TIME, "0")
        assert command.main([file]) == 75
    assert "run the same command again to continue" in capsys.readouterr().err
    assert command.main([file]) == 0
    assert [row["trial"] for row in rows()] == [1]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: shutil.rmtree(folder / "data" / "logits"), "taxa.safetensors is missing; stage logits makes"),
        (lambda folder: (folder / "space.yaml").unlink(), "space.yaml is not a file"),
        (lambda folder: (folder / "params.yaml").write_text("index: {}\n"), "the file lacks"),
    ],
)
def test_what_is_missing_is_told_before_a_trial(
    spoil: Callable[[Path], Any], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_space(trials=1, parameters=RATES)
    spoil(folder)
    assert command.main([file]) == 1
    assert says in capsys.readouterr().err
    assert not (folder / "data" / "search").exists()
