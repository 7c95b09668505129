"""Which of timm's families of image models can be students: build the smallest model of each and fold it for the web.

    python benchmarks/students.py

A family is a module of timm.models. A model with random weights is traced and folded as stage distill does before it
trains, so "yes" means that pruning, INT8 and the conversion to TensorFlow.js know all of its operations.
"""

import argparse
import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import timm
import torch

from bioclip_lite.graph import folding
from bioclip_lite.models import students
from bioclip_lite.utils.errors import UserError

OUTPUT = Path(__file__).with_suffix(".md")
_TRIED = 24  # names of a family whose parameters are counted, the shortest ones
_LARGEST = 60e6  # parameters of a model that is traced
_SIZES = (224, 256)  # pixels; some families take one of them only


class Row(NamedTuple):
    """A family, its smallest model, and why it cannot be a student ("" if it can)."""

    family: str
    model: str
    parameters: float  # millions
    reason: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=timm.list_modules(), help="modules of timm.models")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = list(_rows(args.families))
    OUTPUT.write_text(_page(rows), encoding="utf-8")


def _rows(families: list[str]) -> Iterator[Row]:
    for family in families:
        smallest = _smallest(family)
        if smallest is None:
            continue
        model, parameters = smallest
        large = f"smallest model has over {_LARGEST / 1e6:.0f} M parameters"
        reason = large if parameters > _LARGEST else _why_not(model)
        row = Row(family, model, parameters / 1e6, reason)
        print(row, flush=True)
        yield row


def _smallest(family: str) -> tuple[str, int] | None:
    """(name, parameters) of the smallest model of a family, counted without memory for its weights."""
    counted = []
    for name in sorted(timm.list_models(module=family), key=len)[:_TRIED]:
        with contextlib.suppress(Exception), torch.device("meta"):  # some models compute with their initial weights
            counted.append((sum(p.numel() for p in timm.create_model(name).parameters()), name))
    return (min(counted)[1], min(counted)[0]) if counted else None


def _why_not(model: str) -> str:
    """Fold a model at the sizes in _SIZES; "" if one of them works, otherwise the last reason."""
    reason = ""
    for size in _SIZES:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                built = students.build_student(students.student_spec(model, {}, 64, size))
                folding.fold(students.reparameterize(built), size)
            return ""
        except UserError as error:
            reason = str(error)
        except Exception as error:  # of the model's own code: another row, not the end of the table
            reason = f"fails with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return reason


def _page(rows: list[Row]) -> str:
    able = [row for row in rows if not row.reason]
    lines = [
        "# Students among timm's families",
        "",
        f"timm {timm.__version__}; `python benchmarks/students.py`. The smallest model "
        f"of each family with random weights: {len(able)} of {len(rows)} families can be students.",
        "",
        "| family | smallest model | M parameters | student | reason |",
        "|---|---|---|---|---|",
        *(
            f"| {row.family} | {row.model} | {row.parameters:.1f} | {'no' if row.reason else 'yes'} "
            f"| {_short(row.reason)} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def _short(reason: str) -> str:
    """The module that cannot be traced, or the operations that are not translated, from the message of a refusal."""
    if "cannot be shipped: " in reason:
        listed = reason.split("cannot be shipped: ")[1].split(". Choose")[0]
        operations = [part.split(" in ")[0].strip() for part in listed.split("; ")]
        return "operations " + ", ".join(sorted({name for name in operations if not name.startswith("_")}))
    return reason.split("; take another")[0].removeprefix("the student ")[:160].replace("|", "/")


if __name__ == "__main__":
    main()
