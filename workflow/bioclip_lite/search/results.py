"""What a search has found: a table, curves, and the parameters of the best trial."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from bioclip_lite import params
from bioclip_lite.search.space import Space, with_values
from bioclip_lite.search.study import FIGURES, REASON, check_storage, counted
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import check_file, check_folder, replacing, write_table
from bioclip_lite.utils.yaml_files import dump

TABLE, PAGE, CURVES, PARAMS = "trials.parquet", "trials.md", "trials.png", "params.yaml"
_ENDS = {TrialState.COMPLETE: "", TrialState.PRUNED: "stopped early"}
_LEAST_FOR_IMPORTANCE = 5  # complete trials
_BLUE, _GREY = "#0072B2", "#999999"


def check_place(storage: Path) -> None:
    """Check that the results of a search can be written beside its ``storage`` without loss.

    Raises:
        UserError: ``storage`` is something else, or its folder holds what no search has written, or a params.yaml that
            was edited since.
    """
    if not (storage.is_file() and storage.stat().st_size):
        check_file(storage, "")
        check_folder(storage.parent, [storage.name, TABLE, PAGE, CURVES, PARAMS])
    check_storage(storage)
    own = storage.parent / PARAMS
    rest = own.read_bytes().partition(b"\n")[2] if own.is_file() else b""
    check_file(own, _first_line(rest))


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended, void ones left out."""
    return [trial for trial in counted(study) if trial.state.is_finished()]


def best(study: optuna.Study, training: str) -> FrozenTrial:
    """The complete trial with the highest val_top1; among equals, with the lowest val_nll or the highest val_top5.

    Raises:
        UserError: there is none.
    """
    ended = finished(study)
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = sorted({trial.user_attrs[REASON] for trial in ended if REASON in trial.user_attrs})
        why = "; ".join(reasons) or "all stopped early"
        raise UserError(f"none of {len(ended)} trials was trained to its end: {why}")

    def place(trial: FrozenTrial) -> tuple[float, float, int]:
        figures = trial.user_attrs[FIGURES]
        second = figures["val_top5"] if training == "teacher.lit" else -figures["val_nll"]
        return trial.value or 0.0, second, -trial.number

    return max(complete, key=place)


def write(study: optuna.Study, space: Space, values: dict[str, Any], given: dict[str, Any], folder: Path) -> None:
    """Write the table, the page, the curves and params.yaml.

    Args:
        values: of the best trial, by path.
        given: the content of the parameter file that the search started from.
    """
    trials, chosen = finished(study), best(study, space.training)
    write_table(folder / TABLE, _table(trials, space))
    with replacing(folder / CURVES) as scratch:
        _draw(study, trials, chosen).savefig(scratch, format="png", dpi=120, metadata={"Software": None})
    with replacing(folder / PAGE) as scratch:
        scratch.write_text(_page(trials, chosen, space), encoding="utf-8")
    text = f"# Trial {chosen.number} of a search over {', '.join(space.parameters)}: val_top1 {chosen.value:.4f}.\n"
    text += dump(with_values(given, values))
    with replacing(folder / PARAMS) as scratch:
        scratch.write_text(f"{_first_line(text.encode())}\n{text}", encoding="utf-8")
        params.load(scratch)


def _first_line(rest: bytes) -> str:
    """The first line of a file whose other lines are ``rest``: with it, a file is as a search wrote it."""
    return f"# Written by bioclip-lite search ({hashlib.sha256(rest).hexdigest()[:12]})."


# Tables


def _table(trials: list[FrozenTrial], space: Space) -> pa.Table:
    """A row per trial: its values, val_top1 and the same of each epoch, how it ended and why it failed."""
    columns: dict[str, Any] = {
        "trial": [trial.number for trial in trials],
        "state": [trial.state.name.lower() for trial in trials],
        "val_top1": pa.array([_value(trial) for trial in trials], pa.float64()),
        "val_top1_by_epoch": pa.array([_curve(trial) for trial in trials], pa.list_(pa.float64())),
        "reason": pa.array([trial.user_attrs.get(REASON) for trial in trials], pa.string()),
    }
    columns |= {name: [trial.params.get(name) for trial in trials] for name in space.parameters}
    return pa.table(columns)


def _value(trial: FrozenTrial) -> float | None:
    """val_top1 at the end of a trial, early or not; None if it failed."""
    return trial.value if trial.state in _ENDS else None


def _curve(trial: FrozenTrial) -> list[float]:
    return [value for _, value in sorted(trial.intermediate_values.items())]


def _page(trials: list[FrozenTrial], chosen: FrozenTrial, space: Space) -> str:
    ordered = sorted(trials, key=lambda trial: -1.0 if (value := _value(trial)) is None else value, reverse=True)
    count = len([trial for trial in trials if trial.state == TrialState.COMPLETE])
    lines = [
        f"# A search over {space.training}",
        "",
        f"{len(trials)} of {space.trials} trials have ended, {count} of them trained to their end. Trial "
        f"{chosen.number} is the best. val_top1 is the share of right answers on split val, the only split that was "
        f"looked at: the highest of {count} values is higher than that setting will reach on other photographs. Split "
        f"test says how well it does.",
        "",
        f"![val_top1 by epoch and by trial]({CURVES})",
        "",
        f"| trial | val_top1, % | epochs | {' | '.join(space.parameters)} | ended |",
        "|---" * (4 + len(space.parameters)) + "|",
        *(_line(trial, space) for trial in ordered),
    ]
    return "\n".join(lines) + "\n"


def _line(trial: FrozenTrial, space: Space) -> str:
    value = _value(trial)
    cells = [
        str(trial.number),
        "" if value is None else f"{100 * value:.1f}",
        str(len(trial.intermediate_values)),
        *(_cell(trial.params.get(name, "")) for name in space.parameters),
        _ENDS.get(trial.state, trial.user_attrs.get(REASON, "")),
    ]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# Curves


def _draw(study: optuna.Study, trials: list[FrozenTrial], chosen: FrozenTrial) -> Figure:
    """val_top1 by epoch of every trial, by trial with the best so far, and how much each parameter explains."""
    importance = _importance(study, trials)
    below = 0.5 + 0.3 * len(importance) if importance else 0.0  # inches
    figure = Figure(figsize=(9, 3.4 + below), layout="constrained")
    grid = figure.add_gridspec(2 if importance else 1, 2, height_ratios=[3.4, below] if importance else None)
    _draw_epochs(figure.add_subplot(grid[0, 0]), trials, chosen)
    _draw_trials(figure.add_subplot(grid[0, 1]), trials)
    if importance:
        axes, names = figure.add_subplot(grid[1, :]), [*importance][::-1]
        axes.barh(names, [importance[name] for name in names], color=_BLUE)
        axes.set(title="share of the differences that each parameter explains (PED-ANOVA)", xlim=(0, 1))
    return figure


def _draw_epochs(axes: Axes, trials: list[FrozenTrial], chosen: FrozenTrial) -> None:
    for trial in sorted(trials, key=lambda trial: trial.number == chosen.number):
        curve, own = [100 * value for value in _curve(trial)], trial.number == chosen.number
        dashed = trial.state != TrialState.COMPLETE
        axes.plot(
            range(1, len(curve) + 1),
            curve,
            color=_BLUE if own else _GREY,
            linestyle=":" if dashed else "-",
            linewidth=2 if own else 1,
            marker="." if len(curve) < 2 else "",
        )
    axes.set(title=f"blue: trial {chosen.number}; dotted: ended early", xlabel="epoch", ylabel="val_top1, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_trials(axes: Axes, trials: list[FrozenTrial]) -> None:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    early = [trial for trial in trials if trial.state == TrialState.PRUNED]
    highest = -math.inf
    steps = [highest := max(highest, 100 * (trial.value or 0.0)) for trial in complete]
    axes.step([trial.number for trial in complete], steps, where="post", color=_BLUE, label="best so far")
    for group, marker, label in ((complete, "o", "complete"), (early, "x", "stopped early")):
        values = [100 * (_value(trial) or 0.0) for trial in group]
        axes.plot([trial.number for trial in group], values, marker, color=_GREY, label=label)
    axes.set(title="by trial", xlabel="trial", ylabel="val_top1, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)


def _importance(study: optuna.Study, trials: list[FrozenTrial]) -> dict[str, float]:
    """The share of the differences between complete trials that each parameter explains (PED-ANOVA, arXiv 2304.10255).

    Nothing where there are too few trials, or no differences.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) < _LEAST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return {}
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return found if any(found.values()) else {}


def _states(trials: list[FrozenTrial]) -> Iterator[str]:
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        if count := sum(trial.state == state for trial in trials):
            yield f"{count} {'stopped early' if state == TrialState.PRUNED else state.name.lower()}"


def summary(study: optuna.Study, training: str) -> str:
    """One line about what ended and which trial is the best."""
    trials, chosen = finished(study), best(study, training)
    return f"{', '.join(_states(trials))}; the best is trial {chosen.number} with val_top1 {chosen.value:.4f}"
