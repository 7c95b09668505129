"""Kind open_clip: open_clip_train on our shards, killed and resumed, alone and with several processes."""

import copy
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from open_clip_train.params import parse_args

from bioclip_lite.models import teachers
from bioclip_lite.stages import teacher
from bioclip_lite.training import checkpoint, open_clip_training
from bioclip_lite.utils.defaults import defaults
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table
from support import checkout, lessons, small_clip

WHERE = "teacher.open_clip"
# All 36 photographs are one batch. A crop that is larger than a photograph never fits, so that all of it is taken: the
# loss is that of the weights and captions alone.
WHOLE = {"splits": ["train"], "batch_size": 36, "aug_cfg": {"scale": [1.2, 1.2]}, "workers": 1}


def params(**changes: Any) -> Any:
    chosen = copy.deepcopy(defaults()["teacher"]) | {"kind": "open_clip", "allow_weak": True}
    small = {"model": "tiny.json", "pretrained": None, "epochs": 2, "warmup": 0, "precision": "fp32", "lr": 0.001}
    chosen["open_clip"] |= small | {"batch_size": 8, "workers": 1} | changes
    return chosen


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = lessons.make_data(tmp_path_factory.mktemp("data"))
    (data / "weights").mkdir()
    (data / "weights/tiny.json").write_text(json.dumps(small_clip.CONFIG))
    return data


def start(data: Path, section: Any, processes: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bioclip_lite", "teacher", "model", "--processes", str(processes)]
    environment = checkout.ENVIRONMENT | {"PYTHONPATH": str(checkout.ROOT / "workflow"), "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(
        [*command, "--section", json.dumps(section), "--data", str(data)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def losses(data: Path) -> list[float]:
    return [row["loss"] for row in read_table(data / "teacher" / "history.parquet").to_pylist()]


def test_killed_and_resumed_it_becomes_a_teacher_and_two_processes_give_the_loss_of_one(data: Path) -> None:
    process = start(data, params(**WHOLE))
    assert process.stdout is not None
    while "Start epoch 1" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.stdout.read()  # until open_clip_train, which dies with it, has closed it too
    kept = data / "teacher" / ".partial-model" / "logs" / "training" / "checkpoints"
    assert files(kept) == {"epoch_1.pt"} and not (data / "teacher" / "model").exists()

    (kept / "epoch_2.pt").write_bytes((kept / "epoch_1.pt").read_bytes()[:-100])  # killed while it was written
    teacher.run(params(**WHOLE), data, "model")
    assert files(data / "teacher") == {
        "history.parquet",
        *(f"model/{name}" for name in ("open_clip_config.json", "open_clip_model.safetensors", "preprocess.json")),
        *("model/teacher.json", "model/text_tokenizer.json"),
    }
    history = read_table(data / "teacher" / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[0]["val_top1"] is None and 0 <= history[1]["val_top1"] <= history[1]["val_top5"] <= 1
    made = teachers.load_teacher(data / "teacher" / "model")
    assert (made.about["kind"], made.preprocess["mean"], made.preprocess["size"]) == ("open_clip", [0.4] * 3, 16)
    alone = losses(data)

    section = params(**{**WHOLE, "batch_size": 18, "gather_with_grad": True})
    printed, _ = (process := start(data, section, 2)).communicate()
    assert process.returncode == 0, printed
    # The second is that of the weights after a step, so their gradients were one too.
    assert losses(data) == pytest.approx(alone, rel=1e-4)
    assert alone[1] < alone[0]


def test_its_failure_is_one_message_with_its_last_lines(data: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)^teacher\.open_clip: open_clip_train failed .* in epoch 1; .*nonsense"):
        teacher.run(params(aug_cfg={"nonsense": 1}), data, "model")


def training(data: Path, folder: Path, **changes: Any) -> open_clip_training.Training:
    section = params(**changes)
    folder.mkdir(exist_ok=True)
    return open_clip_training.Training(section["open_clip"], 7, section["captions"], data, ["train-00000"], folder)


def test_each_parameter_is_a_flag_of_open_clip_train(data: Path, tmp_path: Path) -> None:
    switches = ("dataset_resampled", "local_loss", "gather_with_grad", "ddp_static_graph", "grad_checkpointing")
    locks = ("lock_image", "lock_image_freeze_bn_stats", "lock_text")
    other = {
        "accum_freq": 2,
        "lock_image_unlocked_groups": 3,
        "wd": 0.0004,
        "eps": 1e-7,
        "aug_cfg": {"scale": [0.4, 1]},
    }
    for chosen in ({}, {**dict.fromkeys((*switches, *locks), True), **other}):
        given = training(data, tmp_path, **chosen)
        parsed = vars(parse_args(open_clip_training.arguments(given)))
        section: Any = given.section
        assert {name: parsed[name] for name in open_clip_training.FLAGS} == {
            name: section[name] for name in open_clip_training.FLAGS
        }
        assert (parsed["aug_cfg"], parsed["seed"], parsed["train_num_samples"]) == (section["aug_cfg"], 7, 18)
    assert {*open_clip_training.FLAGS} | {"splits", "model", "pretrained", "revision", "preprocess", "aug_cfg"} == {
        *section
    }


@pytest.mark.parametrize(
    ("changes", "samples", "processes", "says"),
    [
        ({"workers": 2}, [50] * 3, 2, r"\.workers: 2 processes with 2 workers each share 3 shards"),
        ({"workers": 0, "batch_size": 60}, [50] * 3, 2, r"\.batch_size is 60, but a worker may get .* 50 photographs"),
        ({"accum_freq": 5, "batch_size": 50}, [50] * 4, 1, r"\.accum_freq is 5, but an epoch has fewer batches of 50"),
        ({"warmup": 100, "batch_size": 50}, [50] * 4, 1, r"\.warmup is 100 steps, but the training has about 8 "),
        ({"workers": 2, "dataset_resampled": True, "batch_size": 60}, [50] * 3, 2, ""),
        ({"workers": 1, "batch_size": 100, "warmup": 2}, [50] * 4, 2, ""),
    ],
)
def test_batches_that_would_never_be_full_are_refused(
    changes: dict[str, Any], samples: list[int], processes: int, says: str
) -> None:
    section = params(**changes)["open_clip"]
    if says:
        with pytest.raises(UserError, match=rf"teacher\.open_clip{says}"):
            open_clip_training.check_batches(section, samples, processes, WHERE)
    else:
        open_clip_training.check_batches(section, samples, processes, WHERE)


PROGRAMS = {
    "asked to stop": "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)",
    "no photographs": "import time; open('failed.json', 'w').write('\"train-00000.tar is cut short\"'); time.sleep(60)",
    "killed": "import os; print('at work', flush=True); os.kill(os.getpid(), 9)",
    "fault": "print(*range(40), sep='\\n'); raise SystemExit(3)",
}
SAYS = {
    "asked to stop": r"stopped as asked after epoch 0 of 2; run the same command again",
    "no photographs": r"^teacher\.open_clip: train-00000\.tar is cut short$",
    "killed": r"open_clip_train was ended by SIGKILL, most often because memory ran out in epoch 1; its .*\nat work$",
    "fault": r"open_clip_train failed with status 3 in epoch 1; its last lines:\n28\n29(.|\n)*\n39$",
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_however_it_ends_there_is_one_message(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip_training, "_command", lambda _: [sys.executable, "-c", PROGRAMS[case]])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match=SAYS[case]) as raised:
        open_clip_training._run(training(data, tmp_path / "training"), WHERE)
    assert isinstance(raised.value, checkpoint.Stopped) == (case == "asked to stop")
    assert signal.getsignal(signal.SIGTERM) == handler


def test_initial_weights_are_described_before_anything_is_trained(data: Path) -> None:
    section = {"allow_research_only": False, "open_clip": params()["open_clip"]}
    teacher.run(section, data, "initial/model")
    described = read_json(data / "teacher" / "initial" / "model.json")
    assert described == {"name": "tiny.json, random weights", "licence": None, "revision": None, "sha256": None}
