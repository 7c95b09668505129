"""Several processes train as one does; what they have to say they say once."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from bioclip_lite.models import students, teachers, text_towers
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.stages import distill, teacher
from bioclip_lite.training import accumulation, distillation, distributed, losses, text_distillation, trainer
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table
from support import checkout, lessons

FILES = {"student.json", "model.safetensors", "preprocess.json"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lessons.make_cache(lessons.make_data(tmp_path_factory.mktemp("data")))


def together(function: Callable[..., Any], *arguments: Any, processes: int = 2) -> list[Any]:
    """What ``function`` returns in each of some processes that work as those of ``launch`` do."""
    # Not forked from this process: its thread pools would be missing in the copies.
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bioclip_lite.stages.teacher"])  # what takes long to import
    answers = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        work = [
            context.Process(target=_work, args=(rank, processes, folder, answers, function, arguments))
            for rank in range(processes)
        ]
        for process in work:
            process.start()
        found = dict(answers.get() for _ in work)
        for process in work:
            process.join()
    assert [process.exitcode for process in work] == [0] * processes
    for answer in found.values():
        if isinstance(answer, Exception):
            raise answer
    return [found[rank] for rank in range(processes)]


def _work(rank: int, processes: int, folder: str, answers: Any, function: Callable[..., Any], arguments: Any) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "BIOCLIP_LITE_RUN": folder}
    torch.set_num_threads(1)
    store, timeout = f"file://{folder}/store", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes, timeout=timeout)
    try:
        answers.put((rank, function(*arguments)))
        distributed.wait()
    except Exception as error:
        answers.put((rank, error))
    dist.destroy_process_group()


def arrays(*tensors: torch.Tensor | None) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors if tensor is not None]


# What they compute


def normalise(momentum: float | None) -> list[np.ndarray]:
    torch.manual_seed(0)
    x, target, scale = torch.randn(7, 5, 3, 2) * 2 + 100, torch.randn(7, 5, 3, 2), torch.randn(5)
    mine = distributed.part(7)
    own = x[mine].clone().requires_grad_()
    norm = nn.BatchNorm2d(5, momentum=momentum)
    norm.weight.data.copy_(scale)
    with distributed.synchronised_norms():
        out = norm(own)
        still = norm.eval()(own)
    loss = (out * target[mine]).square().sum((1, 2, 3)).mean() * distributed.share_of_loss(len(own), 7)
    loss.backward()
    assert norm.weight.grad is not None and norm.bias.grad is not None and own.grad is not None
    distributed.average([norm.weight.grad, norm.bias.grad, value := loss.detach()])
    shared = arrays(norm.weight.grad, norm.bias.grad, value, norm.running_mean, norm.running_var)
    return [*arrays(out, still, own.grad / distributed.size()), *shared]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_statistics_are_those_of_all_samples(momentum: float | None) -> None:
    alone, (left, right) = normalise(momentum), together(normalise, momentum)
    for one, a, b in zip(alone[:3], left, right, strict=False):
        np.testing.assert_allclose(np.concatenate([a, b]), one, rtol=1e-4, atol=1e-4)
    for one, a, b in zip(alone[3:], left[3:], right[3:], strict=True):
        np.testing.assert_allclose(a, one, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(a, b)


class Towers(nn.Module):
    """Two towers, of which a batch may leave out the second."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.read = nn.Linear(6, 4), nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))


def learn() -> list[list[np.ndarray | None]]:
    """Gradients, statistics and loss of batches with the second tower and without it, in micro-batches or at once."""
    torch.manual_seed(distributed.rank())  # the weights of the first process count
    towers = Towers().double()
    found = []

    def loss(batch: tuple[torch.Tensor, bool, int]) -> torch.Tensor:
        rows, both, parts = batch
        own = rows[distributed.part(7)]
        out = accumulation.in_parts(towers.see, towers.see, own, 7, parts)
        if both:
            out = out + accumulation.in_parts(towers.read, towers.read, own, 7, 1)
        return out.square().sum(1).mean() * distributed.share_of_loss(len(own), 7)

    loss_of = distributed.replicated(towers, loss)
    for both, parts in ((True, 1), (False, 2), (True, 3)):
        torch.manual_seed(parts)
        towers.zero_grad(set_to_none=True)
        value = loss_of((torch.randn(7, 6, dtype=torch.float64), both, parts))
        value.backward()
        distributed.average([value := value.detach()])
        gradients = [p.grad for p in towers.parameters()]
        found.append([None if x is None else x.numpy().copy() for x in (*gradients, *towers.buffers(), value)])
    return found


def test_gradients_are_the_mean_over_the_processes_and_none_where_nothing_was_computed() -> None:
    (alone,), (left, right) = together(learn, processes=1), together(learn)
    assert [sum(x is None for x in batch) for batch in alone] == [0, 4, 0]
    for one, a, b in zip(alone, left, right, strict=True):
        for expected, found, other in zip(one, a, b, strict=True):
            if expected is None:
                assert found is None and other is None
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
                np.testing.assert_array_equal(found, other)


def test_on_a_gpu_batch_normalisation_is_that_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Any, ...]] = []
    monkeypatch.setattr(distributed.SyncBatchNorm, "apply", lambda *arguments: called.append(arguments))
    monkeypatch.setattr(distributed, "size", lambda: 2)
    x, (mean, variance, weight, bias) = torch.ones(4, 3, 2, 2), torch.ones(4, 3)
    there = SimpleNamespace(is_cuda=True)
    distributed._batch_norm(there, mean, variance, weight, bias, True, 0.1, 1e-5)  # type: ignore[arg-type]
    assert called == [(there, weight, bias, mean, variance, 1e-5, 0.1, dist.group.WORLD, 2)]
    expected = F.batch_norm(x, mean, variance, weight, bias)
    torch.testing.assert_close(distributed._batch_norm(x, mean, variance, weight, bias), expected)
    assert len(called) == 1  # in eval mode nothing is exchanged


def contrast(captions: int) -> list[np.ndarray]:
    torch.manual_seed(0)
    images, texts = torch.randn(7, 6), torch.randn(captions, 6)
    same = torch.arange(7)[:, None] % captions == torch.arange(captions)
    see, read, scale = nn.Linear(6, 4), nn.Linear(6, 4), nn.Parameter(torch.tensor(2.0))
    image = distributed.gather(F.normalize(see(images[distributed.part(7)]), dim=-1), 7)
    text = distributed.gather(F.normalize(read(texts[distributed.part(captions)]), dim=-1), captions)
    loss = losses.contrastive(image, text, same, scale.exp())
    loss.backward()
    parameters = (*see.parameters(), *read.parameters(), scale)
    gradients = [p.grad for p in parameters if p.grad is not None]
    assert len(gradients) == len(parameters)
    distributed.average([*gradients, value := loss.detach()])
    return arrays(value, *gradients)


@pytest.mark.parametrize("captions", [5, 1])  # 1: a process has none
def test_a_contrastive_loss_sees_every_pair(captions: int) -> None:
    alone = contrast(captions)
    for answers in together(contrast, captions):
        for found, expected in zip(answers, alone, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


class Double(nn.Module):
    """A network in double precision, so that the order of additions is not seen, however long it trains."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels.double())


def train(
    data: Path, labels: bool, batch_size: int, epochs: int, text: bool = False
) -> tuple[list[dict[str, float]], list[np.ndarray]]:
    torch.manual_seed(distributed.rank())  # the weights of the first process count
    arguments: dict[str, Any] = {
        "kind": "mixer",
        "width": 64,
        "layers": 3,
        "outputs": lessons.D,
        "context": 64,
        "student": None,
    }
    tower = text_towers.build(**arguments).double()
    tokenizer = text_towers.tokenizer(arguments)
    spec = students.student_spec("mobilenetv4_conv_small_035", {}, 5 if labels else lessons.D, 64)
    model = Double(students.build_student(spec))
    options = distillation.Options(
        stage="test",
        job="student",
        preprocess=preprocessing(64),
        seed=0,
        **trainer.chosen({**lessons.DISTILL, "epochs": epochs, "batch_size": batch_size, "shuffle_buffer": 20}),
        weights=losses.Weights(batch_affinity=1.0),
    )
    student: distillation.Student
    if text:
        student = text_distillation.TwoTowerDistillation(model, tower, tokenizer, data, options)
    else:
        student = (distillation.Control if labels else distillation.Distillation)(model, data, options)
    history = distillation.train(student)
    trained = [model, tower] if text else [model]
    return history, arrays(*(tensor for part in trained for tensor in part.state_dict().values()))


# Parts of different sizes weigh their losses by numbers that are rounded to single precision; training, which doubles
# such a difference at every step or two, shows it in the second epoch.
@pytest.mark.parametrize(("labels", "batch_size", "epochs"), [(False, 10, 3), (True, 9, 1)])
def test_the_curve_of_two_processes_is_that_of_one(labels: bool, batch_size: int, epochs: int, data: Path) -> None:
    ((history, weights),) = together(train, data, labels, batch_size, epochs, processes=1)
    first, second = together(train, data, labels, batch_size, epochs)
    assert first[0] == second[0]
    for found, expected in zip(first[0], history, strict=True):
        # The last operations of the loss are in single precision, which has seven digits.
        assert found == pytest.approx(expected, rel=1e-5)
    for found, other, expected in zip(first[1], second[1], weights, strict=True):
        np.testing.assert_array_equal(found, other)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_both_towers_of_two_processes_are_those_of_one(data: Path) -> None:
    lessons.write_texts(data)
    ((history, weights),) = together(train, data, False, 10, 1, True, processes=1)
    first, second = together(train, data, False, 10, 1, True)
    assert first[0] == second[0]
    assert first[0][0] == pytest.approx(history[0], rel=1e-4)
    for found, other, expected in zip(first[1], second[1], weights, strict=True):
        np.testing.assert_array_equal(found, other)
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)


def accumulate(normalised: bool) -> list[list[np.ndarray]]:
    """Gradients and statistics by ``in_parts``, and by a plain pass over the same parts."""
    found = []
    for again in (True, False):
        torch.manual_seed(0)
        rows, target = torch.randn(10, 6, dtype=torch.float64), torch.randn(10, 4, dtype=torch.float64)
        model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4) if normalised else nn.Identity()).double()
        own = rows[distributed.part(10)]
        with distributed.synchronised_norms():
            if again:
                out = accumulation.in_parts(model, model, own, 10, 2)
            else:
                out = torch.cat([model(part) for part in own.tensor_split(2)])
        (distributed.gather(out, 10) @ target.T).log_softmax(-1).square().mean().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        distributed.average(gradients)
        found.append(arrays(*gradients, *model.buffers()))
    return found


@pytest.mark.parametrize("normalised", [True, False])
def test_micro_batches_of_several_processes_normalise_together(normalised: bool) -> None:
    (_, alone), (first, second) = accumulate(normalised), together(accumulate, normalised)
    for parts, plain in (first, second):
        assert len(parts) == len(plain) >= 2
        for found, other, expected in zip(parts, first[0], plain, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9)
            np.testing.assert_array_equal(found, other)
    if not normalised:  # other micro-batches have other statistics
        for found, expected in zip(first[0], alone, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9)


def teach(data: Path, params: dict[str, Any]) -> None:
    machine.autocast_helps = lambda _: False  # type: ignore[assignment]
    teacher.run(params, data)


@pytest.mark.parametrize("kind", ["train", "lit"])
def test_a_teacher_of_two_processes_is_that_of_one(kind: str, data: Path) -> None:
    torch.manual_seed(0)
    tower = teachers.image_tower("mobilenetv2_050", lessons.TEACHER["lit"]["image_tower_options"])
    (data / "weights").mkdir(exist_ok=True)
    save_file(tower.state_dict(), data / "weights" / "tower.safetensors")
    # A rate at which the weights hardly move: single precision is enough to see that all pairs count.
    params = {**lessons.TEACHER, "kind": kind}
    params[kind] = {**params[kind], "epochs": 1, "batch_size": 15, "learning_rate": 1e-9}
    outcomes = []
    for processes in (1, 2):
        together(teach, data, params, processes=processes)
        (row,) = read_table(data / "teacher" / "history.parquet").to_pylist()
        outcomes.append((row, load_file(data / "teacher" / "model" / "open_clip_model.safetensors")))
    (expected, weights), (found, others) = outcomes
    assert found == pytest.approx(expected, rel=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_batch_smaller_than_the_processes_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "size", lambda: 8)
    with pytest.raises(UserError, match=r"test\.batch_size: a batch of 4 .* over 8 processes"):
        trainer.check_split(4, 1, "test")
    trainer.check_split(8, 1, "test")
    trainer.check_split(16, 2, "test")
    with pytest.raises(
        UserError, match=r"test\.accumulation is 3, but a batch of 16 photographs gives 2 micro-batches"
    ):
        trainer.check_split(16, 3, "test")


# How they start and end


def start(
    folder: Path, how: Sequence[str] = ("--processes", "2"), within: Sequence[str] = (), **changes: Any
) -> subprocess.Popen[str]:
    """A training with options ``how``; ``within``: a command that starts it elsewhere."""
    section = json.dumps({**lessons.DISTILL, "epochs": 4, **changes})
    command = [*within, sys.executable, "-m", "bioclip_lite", "distill", "student", "--section", section, *how]
    environment = checkout.ENVIRONMENT | {"PYTHONPATH": str(checkout.ROOT / "workflow"), "OMP_NUM_THREADS": "2"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, "--data", str(folder)], env=environment, stdout=pipe, stderr=pipe, text=True, cwd=folder
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder of data, and what an undisturbed training makes of it."""
    data = lessons.make_cache(lessons.make_data(tmp_path_factory.mktemp("trained")))
    together(distill.run, {**lessons.DISTILL, "epochs": 4}, data, "student")
    undisturbed = contents(data / "distill")
    assert undisturbed.keys() == {*(f"model/{name}" for name in FILES), "history.parquet"}
    return data, undisturbed


def start_until_second_epoch(data: Path) -> subprocess.Popen[str]:
    """Start a training, and return when its first epoch has ended."""
    return until_second_epoch(start(data))


def until_second_epoch(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    while "epoch 1 of 4" not in process.stdout.readline():
        assert process.poll() is None
    return process


def test_asked_to_stop_they_stop_together_and_go_on_later(trained: tuple[Path, dict[str, bytes]]) -> None:
    data, undisturbed = trained
    shutil.rmtree(data / "distill")
    process = start_until_second_epoch(data)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 75
    assert err.startswith("distill: distill student: stopped as asked at epoch 2 of 4, step ")
    assert err.count("\n") == 1
    assert list(contents(data / "distill")) == [".partial-student/checkpoint.safetensors"]

    out, err = (process := start(data)).communicate()
    assert (process.returncode, err) == (0, "")
    assert out.count("continues in epoch 2 of 4") == out.count("epoch 4 of 4") == 1
    assert contents(data / "distill") == undisturbed


def test_a_killed_process_is_survived(trained: tuple[Path, dict[str, bytes]]) -> None:
    data, undisturbed = trained
    shutil.rmtree(data / "distill")
    process = start_until_second_epoch(data)
    workers = {worker.environ()["RANK"]: worker for worker in psutil.Process(process.pid).children()}
    workers["1"].kill()
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert err == "distill: process 2 of 2 was ended by SIGKILL; all start again from the last checkpoint\n"
    assert out.count("epoch 4 of 4") == 1
    assert contents(data / "distill") == undisturbed


def test_two_nodes_stop_together_and_go_on_as_two_processes(trained: tuple[Path, dict[str, bytes]]) -> None:
    data, undisturbed = trained
    shutil.rmtree(data / "distill")
    with two_nodes() as (commands, address):
        how = ["--nodes", "2", "--meet", address]
        prints, other = (start(data, how, within) for within in commands)
        # The nodes have their numbers by their addresses, so which of them prints is known.
        until_second_epoch(prints)
        other.send_signal(signal.SIGTERM)
        for node in (prints, other):
            _, err = node.communicate()
            assert node.returncode == 75
            # Slow computers show progress before it.
            assert err.splitlines()[-1].startswith("distill: distill student: stopped as asked at epoch 2 of 4, step ")
        assert list(contents(data / "distill")) == [".partial-student/checkpoint.safetensors"]

        both = [start(data, how, within) for within in commands]
        ended = [node.communicate() for node in both]
    assert [node.returncode for node in both] == [0, 0], ended
    assert "".join(out for out, _ in ended).count("epoch 4 of 4") == 1
    assert contents(data / "distill") == undisturbed


@contextmanager
def two_nodes() -> Iterator[tuple[list[list[str]], str]]:
    """What starts a command on each of two hosts of one network (namespaces of this computer), and where they meet."""
    names = [f"bioclip{os.getpid()}{letter}" for letter in "ab"]
    make = [
        *(f"ip netns add {name}" for name in names),
        f"ip -n {names[0]} link add eth7 type veth peer name eth7 netns {names[1]}",
        *(f"ip -n {name} address add 10.213.0.{number}/24 dev eth7" for number, name in enumerate(names, 1)),
        *(f"ip -n {name} link set {interface} up" for name in names for interface in ("lo", "eth7")),
    ]
    try:
        for command in make:
            try:
                subprocess.run(command.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"{command}: {error}; network namespaces need iproute2 and root")
        network = ["env", "GLOO_SOCKET_IFNAME=eth7", "OMP_NUM_THREADS=1"]  # as many threads as two processes have
        yield [["ip", "netns", "exec", name, *network] for name in names], "10.213.0.1:29400"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_a_node_says_that_another_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = SimpleNamespace(failures={0: SimpleNamespace(exitcode=1)})
    lost = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]:28328.")
    assert distributed._is_lost_peer(lost)
    assert not distributed._is_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    (tmp_path / "lost-0").write_text("Traceback ...")
    assert distributed._explain("distill", tmp_path, 2, error) == 1  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("distill: a process on another node has ended, and that node's output")
    (tmp_path / "traceback-1").write_text("Traceback of its own")
    assert distributed._explain("distill", tmp_path, 2, error) == 1  # type: ignore[arg-type]
    assert capsys.readouterr().err == "Traceback of its own\n"


def test_a_mistake_that_one_process_finds_is_told_once(data: Path) -> None:
    process = start(data, weights="absent.safetensors")
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.startswith("distill: distill.weights: ")
    assert err.count("\n") == 1


def test_the_signal_that_ended_a_process_reaches_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = SimpleNamespace(failures={1: SimpleNamespace(exitcode=-signal.SIGKILL)})
    assert distributed._explain("distill", tmp_path, 2, error) == 128 + signal.SIGKILL  # type: ignore[arg-type]
    told = "distill: process 2 of 2 was ended by SIGKILL, most often because memory ran out\n"
    assert capsys.readouterr().err == told
