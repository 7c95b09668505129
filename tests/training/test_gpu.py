"""Training and embedding on a GPU: on a made-up one (support/fake_gpu.py), and what a GPU asks of code on a CPU."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from bioclip_lite.photographs import loading
from bioclip_lite.photographs.preprocess import preprocessing, to_array
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from support.checkout import ROOT

READ, TO_CPU, UNPINNED = "reads a number", "copies to the CPU", "copies from memory that is not pinned"
# An epoch of 3 steps is read after 2 steps and at its end, one of 2 steps or 1 at its end; then it is measured.
MEASURED = {f"training/trainer.py _read {TO_CPU}": 2, f"training/validation.py __call__ {TO_CPU}": 1}
TEACHER = {
    f"training/trainer.py _read {TO_CPU}": 1,
    f"models/teachers.py embed_texts {TO_CPU}": 1,
    f"training/contrastive.py zero_shot {READ}": 1,
}
EXPECTED = {
    "train: distill": MEASURED,
    "train: prune, every loss": MEASURED,
    "train: control": MEASURED,
    "train: two towers": MEASURED | {f"training/validation.py __call__ {TO_CPU}": 2},
    "train: teacher": TEACHER | {f"training/contrastive.py embed {TO_CPU}": 1},
    "train: lit": TEACHER,
    "embed: warm start": {},
    "embed: warm start of the control": {},
    "embed: warm start by texts": {},
    "embed: photographs": {f"stages/logits.py _embed {TO_CPU}": 2},  # one a batch
    "embed: photographs in float16": {f"stages/logits.py _embed {TO_CPU}": 2},
    "embed: texts": {f"models/teachers.py embed_texts {TO_CPU}": 1},
    "embed: features": {f"teacher_cache/locked_tower.py embed {TO_CPU}": 1},
    "embed: logit scale": {
        f"teacher_cache/logit_scale.py sweep {TO_CPU}": 1,
        f"teacher_cache/logit_scale.py sweep {READ}": 1,
    },
    "embed: prompts": {f"models/teachers.py embed_texts {TO_CPU}": 1},
    "embed: variants": {f"evaluation/variants.py blocks {TO_CPU}": 1},
}
MOVING_A_MODEL = [
    f"{place} {UNPINNED}"
    for place in (
        *("stages/distill.py _start_from", "teacher_cache/locked_tower.py embed"),
        *("evaluation/prompts.py texts_of", "evaluation/variants.py blocks"),
    )
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What fake_gpu_runs.py found."""
    folder = tmp_path_factory.mktemp("gpu")
    paths = os.pathsep.join(str(ROOT / part) for part in ("workflow", "tests"))
    command = [sys.executable, str(ROOT / "tests/support/fake_gpu_runs.py"), str(folder)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(json.loads((folder / "found.json").read_text()))


def test_the_made_up_gpu_refuses_and_counts(found: dict[str, Any]) -> None:
    assert "found at least two devices, gpu:0 and cpu" in found["self: two devices"]["error"]
    assert found["self: waits"]["waits"] == {f"elsewhere {what}": 1 for what in (READ, TO_CPU, UNPINNED)}
    assert {name for name in found if not name.startswith("self")} == set(EXPECTED)


@pytest.mark.parametrize("case", EXPECTED)
def test_a_gpu_is_waited_for_only_where_its_numbers_are_needed(case: str, found: dict[str, Any]) -> None:
    assert found[case]["error"] is None, found[case]["error"]
    waits: Counter[str] = Counter()
    for place, count in found[case]["waits"].items():
        waits[re.sub(r":\d+ ", " ", place)] += count
    for place in MOVING_A_MODEL:
        waits.pop(place, None)
    assert waits == EXPECTED[case], found[case]["waits"]


def test_pixels_are_the_same_numbers_on_whatever_device() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    for mean, std in (
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.3, 1 / 3)),
    ):
        spec = preprocessing(16, mean, std)
        found = loading.normalised(torch.from_numpy(every), spec)
        assert found.dtype == torch.float32 and found.is_contiguous()
        np.testing.assert_array_equal(found[0].numpy(), to_array(every[0], spec))


def test_batches_are_halved_once_where_memory_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    sizes: list[int] = []

    def encode(rows: torch.Tensor, most: int = 4) -> torch.Tensor:
        sizes.append(len(rows))
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 2 * rows

    encoded = machine.within_memory(encode)
    for rows in (torch.arange(7.0), torch.arange(3.0), torch.arange(1.0)):
        assert torch.equal(encoded(rows), 2 * rows)
    assert sizes == [7, 4, 3, 2, 1, 1]
    assert capsys.readouterr().out.count("does not hold 7 photographs at once; batches are halved") == 1
    with pytest.raises(UserError, match="does not hold 5 photographs"):
        encoded(torch.arange(10.0))
    assert torch.equal(machine.within_memory(encode)(torch.arange(4.0)), 2 * torch.arange(4.0))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_embedding_formats_are_those_asked_for(precision: str) -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    layer, rows = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with machine.embedding_in(precision):
        assert [backend.allow_tf32 for backend in backends] == [precision == "tf32"] * 2
        expected = getattr(torch, precision) if precision.endswith("float16") else torch.float32
        assert layer(rows).dtype == expected
    assert [backend.allow_tf32 for backend in backends] == before
    assert machine.embedding_format("auto") == "float32"
    assert machine.embedding_format(precision) == precision
