"""Train a CLIP model by open_clip_train, as the authors of BioCLIP and BioTrove-CLIP do.

Each training process of this package (``distributed.launch`` starts them under torchrun) starts one of open_clip_train
and waits for it. It works in the folder of the training's checkpoint, on a copy of the initial weights, so that no flag
holds a path. After a kill it goes on from the last epoch that was complete.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bioclip_lite.models import initial_clip, teachers, tokenizers
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.texts.captions import files_of_captions
from bioclip_lite.training import (
    captioned_shards,
    checkpoint,
    contrastive,
    distributed,
    open_clip_process,
    trainer,
)
from bioclip_lite.utils import machine
from bioclip_lite.utils.code_fingerprint import PACKAGE
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.exit_status import in_words
from bioclip_lite.utils.files import read_json, write_json

if TYPE_CHECKING:
    from bioclip_lite.utils import sections

# Parameters that are flags of open_clip_train, under their names there.
FLAGS = (
    *("dataset_resampled", "epochs", "batch_size", "accum_freq", "workers", "lr", "wd", "warmup"),
    *("beta1", "beta2", "eps", "precision", "local_loss", "gather_with_grad", "ddp_static_graph"),
    *("grad_checkpointing", "lock_image", "lock_image_unlocked_groups", "lock_image_freeze_bn_stats", "lock_text"),
)
_START, _NAME, _FAILED, _IDENTITY = "start", "training", "failed.json", "identity.json"  # in the folder of the training
_LAST_LINES = 12  # of open_clip_train, in the message about its failure
_STEPS_BETWEEN_LINES = 10
_SECONDS_BETWEEN_LOOKS = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_EPOCH = re.compile(
    r"Train Epoch: (?P<epoch>\d+) .* LR: (?P<learning_rate>\S+) Logit Scale: (?P<logit_scale>\S+) "
    r".*\bLoss: \S+ \((?P<loss>\S+)\)"
)


@dataclass(frozen=True)
class Training:
    """What is trained, on what, and where."""

    section: "sections.TeacherOpenClip"
    seed: int
    captions: Sequence[str]  # text types and captioners; each pass draws one of them for every photograph
    data: Path  # folder of all stage outputs
    shards: Sequence[str]
    folder: Path  # of the training, removed once its outputs are written

    @property
    def checkpoints(self) -> Path:
        return self.folder / "logs" / _NAME / "checkpoints"

    @property
    def samples(self) -> dict[str, int]:
        """Photographs by shard."""
        sizes = read_json(self.data / "shard" / "sizes.json")
        return {shard: sizes[f"{shard}.tar"] for shard in self.shards}


def train(training: Training, initial: initial_clip.InitialClip, where: str) -> tuple[Path, trainer.History]:
    """Train from the ``initial`` weights; (the last checkpoint, a row for each epoch).

    The rows hold epoch (1 ...), loss, learning_rate and logit_scale, as the log gives them: the loss is the mean of
    every tenth step's. All processes call this.

    Args:
        where: the section, for messages.

    Raises:
        UserError: the batches do not go with the photographs, or open_clip_train failed.
        checkpoint.Stopped: training was asked to stop.
    """
    samples = list(training.samples.values())
    check_batches(training.section, samples, distributed.size(), where)
    if distributed.first():
        print(f"training on {sum(samples)} photographs, {initial.name}", flush=True)
        _prepare(training, initial, where)
    distributed.wait()
    epochs = training.section["epochs"]
    if captioned_shards.finished_epochs(training.checkpoints) < epochs:
        _run(training, where)
    distributed.wait()
    return training.checkpoints / f"epoch_{epochs}.pt", _history(training.checkpoints.parent / "out.log")


def check_batches(section: "sections.TeacherOpenClip", samples: Sequence[int], processes: int, where: str) -> None:
    """Check what open_clip_train would wait for without end, or leave out without a word.

    Args:
        samples: photographs of each shard.

    Raises:
        UserError: a reader has no shard, or too few photographs for a batch; or the training has too few steps.
    """
    batch, readers = section["batch_size"], processes * max(1, section["workers"])
    if not section["dataset_resampled"]:
        if readers > len(samples):
            raise UserError(
                f"{where}.workers: {processes} processes with {section['workers']} workers each share {len(samples)} "
                f"shards, and each worker needs its own; lower workers, raise shard.counts.train, or set "
                f"{where}.dataset_resampled to true"
            )
        fewest = sum(sorted(samples)[: len(samples) // readers])
        if fewest < batch:
            raise UserError(
                f"{where}.batch_size is {batch}, but a worker may get shards with {fewest} photographs and would never "
                f"fill a batch; lower batch_size (it is per process) or workers, or set {where}.dataset_resampled to "
                "true"
            )
    steps = -(-sum(samples) // (batch * processes)) // section["accum_freq"]
    if not steps:
        raise UserError(
            f"{where}.accum_freq is {section['accum_freq']}, but an epoch has fewer batches of {batch * processes} "
            f"photographs; lower accum_freq or batch_size"
        )
    if section["warmup"] > (total := steps * section["epochs"]):
        raise UserError(
            f"{where}.warmup is {section['warmup']} steps, but the training has about {total} ({section['epochs']} "
            f"epochs of {steps}), so it would never reach lr; lower warmup"
        )


def _command(training: Training) -> list[str]:
    return [sys.executable, "-m", open_clip_process.__name__, *arguments(training)]


def arguments(training: Training) -> list[str]:
    """The command line of open_clip_train, without the program."""
    section: Mapping[str, Any] = training.section
    addresses = captioned_shards.addresses(training.shards, _draws(training))
    augmentation = [f"{name}={value!r}" for name, value in sorted(section["aug_cfg"].items())]
    return [
        *("--model", f"local-dir:{_START}", "--dataset-type", "webdataset", "--train-data", addresses),
        *("--train-num-samples", str(sum(training.samples.values())), "--seed", str(training.seed)),
        *(word for name in FLAGS for word in _flag(name, section[name])),
        *(["--aug-cfg", *augmentation] if augmentation else []),
        *("--device", machine.device().type, "--logs", "logs", "--name", _NAME, "--resume", "latest"),
        *("--save-frequency", "1", "--delete-previous-checkpoint", "--log-every-n-steps", str(_STEPS_BETWEEN_LINES)),
    ]


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] * value if isinstance(value, bool) else [flag, str(value)]


def _draws(training: Training) -> int:
    return captioned_shards.RESAMPLED_DRAWS if training.section["dataset_resampled"] else 1


# Before


def _prepare(training: Training, initial: initial_clip.InitialClip, where: str) -> None:
    """Make the folder of the training, or find it as an interrupted training of the same identity left it."""
    model = initial_clip.load(initial, training.seed, where)
    identity = _identity(training, model)
    kept = training.folder / _IDENTITY
    if training.folder.exists() and not (kept.exists() and read_json(kept) == identity):
        print(f"{training.folder} is of another training; removed, this one starts from the beginning", flush=True)
        checkpoint.remove(kept)
    if not kept.exists():
        initial_clip.write(training.folder / _START, model, initial.config)
        write_json(kept, identity)
    (training.folder / _FAILED).unlink(missing_ok=True)
    for path in training.checkpoints.glob("*.pt"):
        if not zipfile.is_zipfile(path):  # its table of contents is written last
            print(f"{path} is not complete; removed", flush=True)
            path.unlink()
    captioned_shards.save(
        captioned_shards.Settings(
            data=str(training.data.absolute()),
            captions=list(training.captions),
            seed=training.seed,
            draws=_draws(training),
            checkpoints=str(training.checkpoints.absolute()),
            failed=str((training.folder / _FAILED).absolute()),
        ),
        _settings(training),
    )


def _settings(training: Training) -> Path:
    return training.folder / "captioned.json"


def _identity(training: Training, model: torch.nn.Module) -> dict[str, str]:
    photographs = [training.data / "shard" / f"{name}.tar" for name in training.shards]
    texts = files_of_captions(training.data, training.shards, training.captions)
    parameters = {"section": training.section, "seed": training.seed, "captions": list(training.captions)}
    modules = [captioned_shards.__name__, open_clip_process.__name__]
    return checkpoint.training_identity(model, modules, [*photographs, *texts], parameters)


# Training


def _run(training: Training, where: str) -> None:
    """Run this process's part of open_clip_train to its end."""
    failed, signals, lines = training.folder / _FAILED, list[int](), deque[str](maxlen=_LAST_LINES)
    environment = _environment(_settings(training).absolute(), _common_port())
    stopped = False
    with _noted(signals), _started(_command(training), training.folder, environment, lines) as process:
        while process.poll() is None:
            stopped = stopped or bool(signals) or distributed.asked_to_stop()
            if stopped or failed.exists():
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_BETWEEN_LOOKS)
    done = captioned_shards.finished_epochs(training.checkpoints)
    if stopped:
        raise checkpoint.Stopped(
            f"{where}: stopped as asked after epoch {done} of {training.section['epochs']}; run the same command again "
            "to continue from there"
        )
    if failed.exists():
        raise UserError(f"{where}: {read_json(failed)}")
    if process.returncode:
        raise UserError(
            f"{where}: open_clip_train {in_words(process.returncode)} in epoch {done + 1}; its last lines:\n"
            + "\n".join(lines)
        )


@contextlib.contextmanager
def _started(
    command: list[str], folder: Path, environment: dict[str, str], lines: deque[str]
) -> Iterator["subprocess.Popen[str]"]:
    """A program whose output goes to ``lines``, and of the first process to this one's; it ends with the context."""

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            if distributed.first():
                print(line, end="", flush=True)

    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield process
        finally:
            process.kill()
            reader.join()


@contextlib.contextmanager
def _noted(signals: list[int]) -> Iterator[None]:
    """Within it the signals that ask this process to stop are noted. Other threads than the first get none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, lambda received, _: signals.append(received)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _environment(settings: Path, port: int) -> dict[str, str]:
    """The environment of open_clip_train: torchrun's, with a meeting place of its own."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"} if distributed.size() == 1 else {}
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        **alone,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "HF_HUB_OFFLINE": "1",  # all that it needs is in its folder
        "PYTHONPATH": os.pathsep.join(paths),
        distributed.PARENT: str(os.getpid()),
        captioned_shards.PYTHON: sys.executable,
        captioned_shards.SETTINGS: str(settings),
    }


def _common_port() -> int:
    """A port that is free on the computer of the first process; the same answer in all processes."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = torch.tensor(free.getsockname()[1])
    distributed.share([port])
    return int(port)


# After


@torch.inference_mode()
def measure(
    model: teachers.Clip, config: dict[str, Any], training: Training, val_shards: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """The ``contrastive.shares_right`` of a trained model on ``val_shards``, and the taxa of their photographs.

    All processes call this; each embeds a part of the photographs.
    """
    preprocess = teachers.open_clip_preprocess(config, "the teacher")
    images = ShardSet.of(*(training.data / "shard" / f"{name}.tar" for name in val_shards))
    shards = training.data / "shard"
    pairs = contrastive.Pairs(training.data, val_shards, images.keys, images.taxon_ids, training.captions, shards)
    model.to(machine.device()).eval()
    tokenizer = tokenizers.build(tokenizers.describe(config, None))
    text = teachers.embed_texts(teachers.Teacher(model, tokenizer, preprocess, 0.0, {}), contrastive.prompts(pairs))
    return contrastive.shares_right(pairs, text, contrastive.embed(model, images, preprocess)), images.taxon_ids


def _history(log: Path) -> trainer.History:
    """A row for each epoch from the last line about it; an epoch that was interrupted has lines of both attempts."""
    rows: dict[int, dict[str, float]] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := _EPOCH.search(line):
            epoch = int(match["epoch"]) + 1
            figures = {name: float(match[name]) for name in ("loss", "learning_rate", "logit_scale")}
            rows[epoch] = {"epoch": epoch, **figures}
    return [rows[epoch] for epoch in sorted(rows)]
