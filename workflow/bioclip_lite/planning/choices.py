"""Choose teacher, student and their training by what there is and by the hours that a run may take."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
from safetensors import SafetensorError, safe_open

from bioclip_lite.metrics import guessing
from bioclip_lite.models import hub
from bioclip_lite.planning.speed import Machine
from bioclip_lite.planning.survey import Look, Survey
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.defaults import defaults

SHARES = ("train", "val", "calibration", "test")
MAX_SIDE = 512  # pixels: a crop of 0.4 of the area of a 4:3 photograph still has the 224 pixels that teachers take
_PER_SHARD, _FEWEST_PER_SHARD = 10_000, 64  # photographs
_MARGIN = 0.8  # of the hours, as rates are measured on a moment of this machine
_LEAST_EPOCHS, _MOST_EPOCHS = 20, 40  # of a student that starts from published weights
_MOST_FROM_NOTHING = 100
_BATCH, _BATCH_ON_A_GPU = 32, 128
_ENOUGH_WITHOUT_NAMES = 32  # photographs without a name: fewer are left out
_SECOND = 0.5  # of the first processor's worth to a training, that each further one has


class Teacher(NamedTuple):
    """A teacher that may be chosen."""

    section: dict[str, Any]  # of the parameters
    about: str  # for the user: what it is and under which licence
    kind: str  # pretrained, lit or train
    tower: str | None = None  # a timm model whose speed can be measured in its place
    times: float = 1.0  # how much more it computes than ``tower``
    size: float = 0.0  # bytes of its weights
    repository: str | None = None  # of the hub


class Student(NamedTuple):
    """A student that may be chosen."""

    section: dict[str, Any]
    about: str
    largest: int  # image size, in pixels
    repository: str | None = None


# ViT-L/14 computes 81 billion products for a photograph of 224 pixels, ViT-B/16 17.6 (timm).
PUBLISHED = (
    Teacher(
        {"kind": "pretrained", "pretrained": {"model": "hf-hub:imageomics/bioclip-2"}},
        "BioCLIP 2 (ViT-L/14; licence MIT), trained on 952,000 taxa",
        "pretrained",
        "vit_base_patch16_224",
        4.6,
        1.7e9,
        "imageomics/bioclip-2",
    ),
    Teacher(
        {"kind": "pretrained", "pretrained": {"model": "hf-hub:imageomics/bioclip"}},
        "BioCLIP (ViT-B/16; licence MIT), trained on 454,000 taxa",
        "pretrained",
        "vit_base_patch16_224",
        1.0,
        0.6e9,
        "imageomics/bioclip",
    ),
)
_MOBILENET = "mobilenetv4_conv_small.e2400_r224_in1k"
PRETRAINED_STUDENT = Student(
    {"student": _MOBILENET, "weights": "pretrained", "learning_rate": 0.0005},
    "MobileNetV4 small, from its ImageNet weights (licence Apache-2.0)",
    224,
    f"timm/{_MOBILENET}",
)
_SMALL = {"embed_dims": [24, 48, 96, 96], "act_layer": "relu", "mlp_kernel": 3, "down_patch_size": 3}
STUDENT_FROM_NOTHING = Student(
    {"student": "fastvit_t8", "student_options": _SMALL}, "a small FastViT from random weights", 128
)
_FEW_TO_TRAIN_ON, _SMALL_BATCH = 2000, 32  # photographs: of so few, the usual batches would make hardly any step
_SHOWN = 36_000  # photographs, repetitions included, from which a small CLIP learns, as of the built-in sample


class Rates(NamedTuple):
    """Seconds per photograph, measured: of one processor, or of the GPU."""

    view: float  # to decode and augment
    embed: Callable[[Teacher], float]  # by a teacher
    text: float  # to embed a caption with BioCLIP
    step: Callable[[Student, int], float]  # to train a student at an image size


class Plan(NamedTuple):
    """A run of the pipeline."""

    teacher: Teacher
    student: Student
    image_size: int  # of the student
    views: int
    epochs: int
    counts: dict[str, int]  # shards per split
    max_side: int | None
    batch: int
    seconds: dict[str, float]  # per stage

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) / 3600


# ---------------------------------------------------------------------------------------------------- what can be had


class Offer(NamedTuple):
    """What can be chosen among on this machine, best first, and what is missing."""

    teachers: list[Teacher]
    students: list[Student]
    to_fetch: list[str]  # repositories of the hub that a run would download
    out_of_reach: list[str]  # repositories that would be chosen if they could be had


def offer(weights: Path, found: Survey) -> Offer:
    """Find out which teachers and students can be had: in the hub's cache, from the hub, or in ``weights``."""
    start = str(PRETRAINED_STUDENT.repository)
    places = {name: hub.whereabouts(name) for name in (*(str(teacher.repository) for teacher in PUBLISHED), start)}
    local = [*towers(weights)]
    teachers = [teacher for teacher in PUBLISHED if places[str(teacher.repository)]]
    teachers = teachers or _locked(local, found)[:1] or [_small_clip(found)]
    students = [PRETRAINED_STUDENT] if places[start] else [*map(_started, local), STUDENT_FROM_NOTHING]
    return Offer(
        teachers,
        students,
        [name for name, place in places.items() if place == "hub"],
        [name for name, place in places.items() if place is None],
    )


def towers(weights: Path) -> Iterator[tuple[str, str]]:
    """(File, timm model) of the safetensors in data/weights whose names say which model they belong to, and that do."""
    for file in sorted(weights.glob("*.safetensors")):
        inside = [name for name in timm.list_models() if name in file.stem]
        model = max(inside, key=len, default=None)
        if model and _fits(file, model):
            yield file.name, model


def _fits(file: Path, model: str) -> bool:
    """Whether a file has the tensors of a timm model, its last layer left out."""
    import torch

    with torch.device("meta"):
        wanted = {name: list(x.shape) for name, x in timm.create_model(model, num_classes=0).state_dict().items()}
    try:
        with safe_open(file, "pt") as tensors:
            held = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return False
    return all(held.get(name) == shape for name, shape in wanted.items() if not name.endswith("num_batches_tracked"))


def _locked(local: list[tuple[str, str]], found: Survey) -> list[Teacher]:
    """LiT teachers on the towers in data/weights; one that is known to have learned insects comes first for insects."""
    place = taxonomy.RANKS.index("class")
    insects = sum(n for path, n in found.taxa.items() if path[place] == "Insecta")
    mostly = 2 * insects > found.photographs
    ordered = sorted(local, key=lambda tower: ("insect" in tower[0].lower()) != mostly)
    return [_lit(file, model, numbers(found)["train"]) for file, model in ordered]


def _small_clip(found: Survey) -> Teacher:
    photographs = max(1.0, numbers(found)["train"])
    section: dict[str, Any] = {"epochs": round(max(9, min(60, _SHOWN / photographs)))} | _batch(photographs)
    about = "a small CLIP, trained on your photographs alone"
    return Teacher({"kind": "train", "train": section}, about, "train", "resnet10t")


def _batch(photographs: float) -> dict[str, Any]:
    return {"batch_size": _SMALL_BATCH} if photographs < _FEW_TO_TRAIN_ON else {}


def _lit(file: str, model: str, photographs: float) -> Teacher:
    usual = defaults()["teacher"]["lit"]
    section: dict[str, Any] = {"weights": file} | _batch(photographs)
    if model != usual["image_tower"]:
        published = timm.get_pretrained_cfg(model)
        section |= {"image_tower": model, "image_tower_options": {}}
        section |= {"mean": [*published.mean], "std": [*published.std]} if published else {}
    about = f"LiT: the image tower {file} in data/weights, whose licence you know, and a text tower tuned to it here"
    return Teacher({"kind": "lit", "lit": section}, about, "lit", model)


def _started(tower: tuple[str, str]) -> Student:
    file, model = tower
    usual = defaults()["teacher"]["lit"]
    options = usual["image_tower_options"] if model == usual["image_tower"] else {}
    section = {"student": model, "student_options": options, "weights": file, "learning_rate": 0.0005}
    return Student(section, f"{model}, from {file} in data/weights", 224)


# ------------------------------------------------------------------------------------------------------------- a plan


def choose(found: Survey, seen: Look, offered: Offer, rates: Rates, machine: Machine, hours: float) -> Plan:
    """The best plan that fits into ``hours``, or the fastest if none does.

    A better teacher and more of its views come before larger images than 160 pixels, and these before more epochs than
    ``_LEAST_EPOCHS``.
    """
    student = offered.students[0]
    best = None
    for teacher, views, image_size in _ladder(offered.teachers, student, machine):
        plan = _filled(found, seen, teacher, student, views, image_size, rates, machine, hours)
        if plan.epochs >= _least(student) and plan.hours <= _MARGIN * hours:
            return plan
        best = plan if best is None or plan.hours < best.hours else best
    assert best is not None
    return best


def _ladder(teachers: list[Teacher], student: Student, machine: Machine) -> Iterator[tuple[Teacher, int, int]]:
    jobs = 1 if machine.gpu else min(machine.cores, 8)  # that hold the teacher at once
    able = [teacher for teacher in teachers if machine.memory >= 4e9 + 1.3 * jobs * teacher.size] or teachers[-1:]
    first, last = able[0], able[-1]
    sizes = [size for size in (224, 160, 128, 96, 64) if size <= student.largest]
    for teacher in [first] if first is last else [first, last]:
        for views in (8, 4):
            yield teacher, views, sizes[0]
    for size in sizes[1:]:
        yield last, 4, size
    yield last, 2, sizes[-1]


def _least(student: Student) -> int:
    return _LEAST_EPOCHS if "weights" in student.section else 2 * _LEAST_EPOCHS


def _filled(
    found: Survey,
    seen: Look,
    teacher: Teacher,
    student: Student,
    views: int,
    image_size: int,
    rates: Rates,
    machine: Machine,
    hours: float,
) -> Plan:
    """A plan with as many epochs as there is time for."""
    counts = shards(found, machine.cores)
    without = unlabelled(found, teacher)
    if without:
        counts["unlabelled"] = max(1, without // _PER_SHARD)
    plan = Plan(teacher, student, image_size, views, 1, counts, max_side(seen), batch_size(machine), {})

    def with_epochs(epochs: int) -> Plan:
        longer = plan._replace(epochs=epochs)
        return longer._replace(seconds=estimate(longer, found, seen, rates, machine))

    least, most = _least(student), _MOST_EPOCHS if "weights" in student.section else _MOST_FROM_NOTHING
    one, two = (sum(with_epochs(epochs).seconds.values()) for epochs in (100, 200))
    each = (two - one) / 100
    room = _MARGIN * 3600 * hours - (one - 100 * each)
    return with_epochs(max(least // 2, min(most, math.floor(room / each))))


def max_side(seen: Look) -> int | None:
    """``shard.max_side``: none for photographs that are not much larger."""
    return MAX_SIDE if seen.sides[1] > 1.25 * MAX_SIDE or not seen.opened else None


def numbers(found: Survey) -> dict[str, float]:
    """Photographs per split as far as can be said before stage index deals them."""
    own = found.splits.total()
    dealt = defaults()["index"]["split"]
    return {split: found.splits[split] + (found.photographs - own) * dealt[split] for split in SHARES}


def unlabelled(found: Survey, teacher: Teacher) -> int:
    """Photographs without any name from which the student learns the answers of a teacher that knows more than it."""
    return found.unnamed if teacher.kind != "train" and found.unnamed >= _ENOUGH_WITHOUT_NAMES else 0


def shards(found: Survey, cores: int) -> dict[str, int]:
    """Shards per split: powers of two, one per processor for the training photographs if there are enough of these."""
    counts = {"pretrain": 1 if found.splits["pretrain"] else 0}
    for split, number in numbers(found).items():
        wanted = max(number / _PER_SHARD, min(cores, number / _FEWEST_PER_SHARD) if split == "train" else 1)
        counts[split] = 2 ** max(0, math.floor(math.log2(max(1.0, wanted))))
    return counts


def batch_size(machine: Machine) -> int:
    """Photographs per training step."""
    return _BATCH_ON_A_GPU if machine.gpu else _BATCH


def fine_tuning(plan: Plan) -> int:
    """Epochs of the second stage."""
    return max(2, plan.epochs // 8)


def recovery(plan: Plan) -> int:
    """Epochs after pruning."""
    return max(2, plan.epochs // 5)


def estimate(plan: Plan, found: Survey, seen: Look, rates: Rates, machine: Machine) -> dict[str, float]:
    """Seconds per stage. What does not grow with photographs was measured once, on 2 processors: benchmarks/init.md."""
    split, cores, without = numbers(found), machine.cores, unlabelled(found, plan.teacher)
    photographs, learned = found.photographs + without, split["train"] + without
    side_by_side = min(cores, plan.counts["train"] + 1)
    half = max(1, min(8, cores // 2))
    embed = (rates.embed(plan.teacher) if plan.teacher.kind != "train" else rates.view) * plan.teacher.times
    step = (rates.step(plan.student, plan.image_size) + rates.view) / (1 if machine.gpu else 1 + _SECOND * (half - 1))
    shown = learned * plan.views + photographs - learned
    at_once = 1 if machine.gpu else side_by_side  # a GPU works for one job after the other
    fetch = photographs * seen.fetch / 4  # four at a time from one server
    return {
        "index": 5 + fetch + photographs * seen.inspect / cores,
        "shard": 5 + photographs * seen.pack / side_by_side,
        "caption": 5 + photographs * 0.0005,
        "teacher": _teacher_seconds(plan.teacher, split, rates),
        "logits": 20 + shown * (embed / at_once + rates.view / side_by_side) + len(found.taxa) * rates.text,
        "distill": 30 + (plan.epochs + fine_tuning(plan)) * (learned + 0.3 * split["val"]) * step,
        "prune": 30 + (recovery(plan) + 1) * learned * step,
        "quantize": 10 + 60 * (plan.image_size / 224) ** 2 / half,
        "convert": 20,
        "evaluate": 40 + 12 * split["test"] * step + 4 * 200 * rates.text,
    }


def _teacher_seconds(teacher: Teacher, split: dict[str, float], rates: Rates) -> float:
    if teacher.kind == "pretrained":
        return 20 + teacher.size / 50e6  # bytes are read, hashed and written
    epochs = teacher.section[teacher.kind].get("epochs", 60)
    if teacher.kind == "lit":
        return 20 + (split["train"] + split["val"]) * rates.embed(teacher) + epochs * split["train"] * 0.002
    return 20 + epochs * split["train"] * 0.03


def warnings(plan: Plan, found: Survey, hours: float) -> Iterator[str]:
    """What the user should know before hours are spent."""
    if plan.hours > hours:
        yield f"this takes about {plan.hours:.1f} hours, more than the {hours:g} that you gave; none shorter is of use"
    if plan.teacher.kind == "train":
        few = guessing.few_photographs(round(numbers(found)["train"]), len(found.taxa))
        if few:
            yield few
    if plan.teacher.kind == "lit":
        yield (
            "the teacher is an image tower that was trained on other photographs, and a text tower that learns from "
            "yours alone; a published CLIP such as BioCLIP is better"
        )
    if found.photographs and found.photographs < 10 * len(found.taxa):
        yield (
            f"{found.photographs / len(found.taxa):.0f} photographs per taxon: figures of the report will be "
            "uncertain, and some taxa will have no test photograph"
        )
