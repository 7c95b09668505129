"""``bioclip-lite init PHOTOS --list LIST --hours 2``: look at photographs, list and machine, and write params.yaml.

Nothing is trained. Names are read, a few photographs are opened, and networks with random weights are timed; from these
rates the plan is computed. The photographs stay where they are: data/photos becomes a link to their folder.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bioclip_lite import params
from bioclip_lite.commands.common import PARAMS, PHOTOS, command, committed, copy_into, link_photographs
from bioclip_lite.planning import choices, speed, survey
from bioclip_lite.sources.recognition import recognise
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.defaults import defaults
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, check_place, replacing

LISTS, WEIGHTS, DATA = Path("data/lists"), Path("data/weights"), Path("data")
HOURS = 2.0


def init(photos: Path, species_list: Path | None, hours: float, output: Path) -> None:
    """Print what there is and what is chosen, and write the parameters to ``output``.

    Raises:
        UserError: the photographs or the list cannot be used as they are, or something would be lost. Nothing is
            written then.
    """
    if not hours > 0:
        raise UserError(f"--hours is {hours:g}; it must be above 0")
    check_output(output)
    form = recognise(photos)
    put_photographs, path = _place(form.path)
    put_list = copy_into(LISTS, species_list, "--list") if species_list else lambda: None
    index = survey.section(form)
    found = survey.survey(index, species_list)
    seen = survey.look(index, found, choices.MAX_SIDE)
    print("\n".join(survey.describe(form, found, seen)))
    if not found.photographs:
        raise UserError(f"{photos} has no photograph with a usable name{' of the list' * bool(found.listed)}")
    machine = speed.here()
    print(f"\n{_about(machine)}; measuring its speed ...", flush=True)
    offered = choices.offer(WEIGHTS, found)
    rates = _measured(seen.packed or speed.noise((512, 384)), offered, machine)
    plan = choices.choose(found, seen, offered, rates, machine, hours)
    print("\n".join(_chosen(plan)))
    text = parameters(plan, form.source, path, species_list)
    put_photographs()
    put_list()
    _write(output, text)
    print("\n".join(_end(output, plan, offered, choices.warnings(plan, found, hours))))


# --------------------------------------------------------------------------------------------------- nothing gets lost


def check_output(output: Path) -> None:
    """Raise UserError unless ``output`` is new, held by git, or as an earlier ``init`` wrote it."""
    if output.is_file() and committed(output):
        check_place(output)
        return
    line, _, rest = output.read_bytes().partition(b"\n") if output.is_file() else (b"", b"", b"")
    if output == PARAMS and line and line.decode(errors="replace") != first_line(rest):
        raise UserError(
            f"{PARAMS} has changes that are not committed and would be lost; commit or discard them, or name another "
            f"file: --output params.new.yaml"
        )
    check_file(output, first_line(rest))


def first_line(rest: bytes) -> str:
    """The first line of a file whose other lines are ``rest``: with it, a file is as ``init`` wrote it."""
    return f"# Written by bioclip-lite init ({hashlib.sha256(rest).hexdigest()[:12]}); change what you like."


def _write(output: Path, text: str) -> None:
    with replacing(output) as scratch:
        scratch.write_text(f"{first_line(text.encode())}\n{text}", encoding="utf-8")
        params.load(scratch)


def _place(path: Path) -> tuple[Callable[[], None], Path]:
    """The function that puts photographs in place, and ``index.path``: below data/, as DVC wants it."""
    inside = DATA.resolve()
    if path.resolve().is_relative_to(inside):
        return lambda: None, DATA / path.resolve().relative_to(inside)
    folder = path if path.is_dir() else path.parent
    return link_photographs(folder, "PHOTOS"), PHOTOS if path.is_dir() else PHOTOS / path.name


# ------------------------------------------------------------------------------------------------------ the parameters


def parameters(plan: choices.Plan, source: str, path: Path, species_list: Path | None) -> str:
    """The lines of params.yaml below the first one."""
    index = {"source": source, "path": str(path), "species_list": species_list.name if species_list else None}
    student = {
        **plan.student.section,
        "text_tower": None,  # dvc.yaml reads it from this file
        "image_size": plan.image_size,
        "epochs": plan.epochs,
        "batch_size": plan.batch,
        "finetune": {"epochs": choices.fine_tuning(plan)},
    }
    if "unlabelled" in plan.counts:
        index["unlabelled"], student["splits"] = "keep", ["train", "unlabelled"]
    budget = {"macs": 0.75 if "weights" in plan.student.section else 0.5}
    sections = {
        "index": {name: value for name, value in index.items() if value is not None},
        "shard": {"counts": plan.counts} | ({"max_side": plan.max_side} if plan.max_side else {}),
        "caption": {},
        "teacher": plan.teacher.section,
        "logits": {"views": plan.views},
        "distill": student,
        "prune": {"budget": budget, "epochs": choices.recovery(plan)},
        "quantize": {},
        "convert": {name: defaults()["convert"][name] for name in ("taxa_bytes", "over_budget")},
        "evaluate": {"prompts": {"templates": ["plain"]}, "speed": {"sizes": []}},
    }
    head = f"# {plan.teacher.about}.\n# docs/parameters.md lists all parameters; what is not here has their defaults.\n"
    return head + "".join(f"{name}: {_flow(section)}\n" for name, section in sections.items())


def _flow(value: Any) -> str:
    """One line of YAML for a section."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    plain = isinstance(value, str) and value.replace("_", "").replace("/", "").isalnum() and not value[0].isdigit()
    return value if plain else json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------------------ messages


def _about(machine: speed.Machine) -> str:
    gpu = machine.gpu or "no GPU"
    return (
        f"machine      {machine.cores} processors, {machine.memory / 1e9:.0f} GB of memory, {gpu}, "
        f"{machine.free / 1e9:.0f} GB of disk free"
    )


def _measured(photograph: bytes, offered: choices.Offer, machine: speed.Machine) -> choices.Rates:
    """Rates of this machine; each network is timed when a plan first asks for it."""
    students = {student.about: student.section for student in offered.students}

    @cache
    def step(about: str, size: int) -> float:
        section = students[about]
        options = section.get("student_options", {})
        return speed.step_seconds(section["student"], options, size, choices.batch_size(machine))

    tower = cache(speed.embedding_seconds)
    return choices.Rates(
        view=speed.view_seconds(photograph),
        embed=lambda teacher: tower(str(teacher.tower)),
        text=speed.text_seconds(),
        step=lambda student, size: step(student.about, size),
    )


def _chosen(plan: choices.Plan) -> Iterator[str]:
    yield f"teacher      {plan.teacher.about}"
    yield f"student      {plan.student.about}, {plan.image_size} pixels"
    yield (
        f"training     {plan.views} views per photograph, {plan.epochs} epochs"
        + (f"; photographs are packed at {plan.max_side} pixels" if plan.max_side else "")
    )
    if "unlabelled" in plan.counts:
        yield "unlabelled   photographs without a name: the student learns the teacher's answers to them"
    yield ""
    yield from (f"{stage:12} {_duration(seconds):>12}" for stage, seconds in plan.seconds.items())
    yield f"{'all':12} {_duration(3600 * plan.hours):>12}   computed from rates that were measured just now"


def _duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _end(output: Path, plan: choices.Plan, offered: choices.Offer, warnings: Iterator[str]) -> Iterator[str]:
    """What to fetch, to know and to run."""
    yield ""
    wanted = {plan.teacher.repository, plan.student.repository}
    for repository in offered.to_fetch:
        if repository in wanted:
            yield f"to fetch     hf download {repository}   (or the run does it)"
    if offered.out_of_reach:
        yield (
            f"not here     {', '.join(offered.out_of_reach)}: neither in the hub's cache nor to be had from here. With "
            "them the model gets better: on a computer with a network run"
        )
        yield from (f"             hf download {repository}" for repository in offered.out_of_reach)
        yield "             copy the cache folder here (~/.cache/huggingface), and run init again"
    yield from (f"warning: {line}" for line in warnings)
    yield f"\n{output} is written. Next:"
    if output != PARAMS:
        yield f"  cp '{output}' {PARAMS}"
    yield "  snakemake --cores all index   and look at data/index/report.html"
    yield "  make evaluate                 the whole run; then data/evaluate/report.html"
    yield "  make demo                     the page with the model in it"


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "init",
        "Look at your photographs, your species list and this machine, say what there is and what is missing, and "
        "write a params.yaml with an estimate of the time. Replaces nothing that git does not hold.",
    )
    parser.add_argument(
        "photos", metavar="PHOTOS", type=Path, help="folder of photographs, table that lists them, or archive"
    )
    parser.add_argument("--list", metavar="LIST", type=Path, help="species list; copied to data/lists")
    parser.add_argument(
        "--hours", type=float, default=HOURS, help=f"hours that a run may take on this machine (default: {HOURS:g})"
    )
    parser.add_argument("--output", type=Path, default=PARAMS, help=f"file of parameters to write (default: {PARAMS})")
    return parser


@command("init")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    init(arguments.photos, arguments.list, arguments.hours, arguments.output)
    return 0
