"""The trials of a search, in one file that any number of participants share (Optuna's journal storage).

A participant is one run of the command, on any machine that sees the file. While it trains, it leaves signs of life in
the file. A trial without any belongs to a participant that was killed: its values are tried again.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from bioclip_lite.search.space import Space, suggest
from bioclip_lite.training.checkpoint import Stopped
from bioclip_lite.utils.errors import UserError, first_line
from bioclip_lite.utils.randomness import digest

REASON = "reason"  # why a trial failed; a failed trial without is void, and others take its place
FIGURES = "figures"  # the last row of its history
_NAME = "search"
_ABOUT = "about"
_BEAT = "beat"
_SECONDS_BETWEEN_BEATS = 20.0
_SECONDS_OF_SILENCE = 90.0

Run = Callable[[optuna.Trial, dict[str, Any]], float]  # trains with values by path; returns what is to be highest


def check_storage(path: Path) -> None:
    """Raise UserError if there is a file of this name that is no journal of Optuna's."""
    if path.exists() and path.stat().st_size:
        try:
            with path.open("rb") as file:
                known = "op_code" in json.loads(file.readline())
        except (ValueError, TypeError):
            known = False
        if not known:
            raise UserError(f"{path} is there already and holds no search; name another file")


def open_study(path: Path, space: Space, about: dict[str, Any], epochs: int) -> optuna.Study:
    """The study in a file, which is made if there is none.

    Args:
        about: of JSON; what all participants must agree in.
        epochs: that a trial trains at most, which Hyperband needs to know.

    Raises:
        UserError: the file holds a search that is ``about`` something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        sampler=_sampler(space, 0),
        pruner=_pruner(space, epochs),
        study_name=_NAME,
        direction="maximize",
        load_if_exists=True,
    )
    if _ABOUT not in study.user_attrs:
        study.set_user_attr(_ABOUT, about)
    known = study.user_attrs[_ABOUT]
    other = sorted(name for name in {*known, *about} if known.get(name) != about.get(name))
    if other:
        raise UserError(f"{path} holds a search with other {', '.join(other)}; name another file with --storage")
    return study


def _pruner(space: Space, epochs: int) -> optuna.pruners.BasePruner:
    if space.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=epochs)
    return optuna.pruners.MedianPruner() if space.pruner == "median" else optuna.pruners.NopPruner()


def _sampler(space: Space, number: int) -> optuna.samplers.TPESampler:
    """A sampler for one trial: what it draws depends on the seed, the number and the trials so far.

    Parameters are drawn one by one, so that the number is known before the first of them.
    """
    return optuna.samplers.TPESampler(seed=digest(space.seed, _NAME, number) % 2**32, multivariate=False)


# Participating


def participate(study: optuna.Study, space: Space, run: Run) -> None:
    """Train until ``space.trials`` trials of all participants together are finished, or are being trained by others.

    A trial that raises UserError, as one that diverges, or that PyTorch refuses, counts as failed, with the reason.
    """
    while True:
        begun = [trial for trial in counted(study) if trial.state != TrialState.WAITING]
        if len(begun) < space.trials:
            _take_part(study, space, run)
        elif not _queue_silent(study):
            return


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are not void."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.FAIL or REASON in trial.user_attrs]


def _take_part(study: optuna.Study, space: Space, run: Run) -> None:
    """Train one trial."""
    trial = study.ask()
    if sum(other.number < trial.number for other in counted(study)) >= space.trials:
        study.tell(trial, state=TrialState.FAIL)  # another participant has begun the last one in the meantime
        return
    study.sampler = _sampler(space, trial.number)
    try:
        with _alive(trial):
            _finish(study, trial, run, suggest(space, trial))
    except UpdateFinishedTrialError:
        print(f"search: trial {trial.number} was silent for too long, and is tried again", flush=True)
    except BaseException:  # this participant ends, the search does not
        with suppress(UpdateFinishedTrialError, ValueError):
            study.tell(trial, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
        raise


def _finish(study: optuna.Study, trial: optuna.Trial, run: Run, values: dict[str, Any]) -> None:
    chosen = ", ".join(f"{name} {_brief(value)}" for name, value in values.items())
    print(f"search: trial {trial.number}: {chosen}", flush=True)
    try:
        value = run(trial, values)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        print(f"search: trial {trial.number}: stopped early", flush=True)
    except (Stopped, UpdateFinishedTrialError):
        raise
    except (UserError, RuntimeError) as error:  # PyTorch's are RuntimeErrors: too little memory, shapes
        trial.set_user_attr(REASON, first_line(error))
        study.tell(trial, state=TrialState.FAIL)
        print(f"search: trial {trial.number}: failed: {first_line(error)}", flush=True)
    else:
        study.tell(trial, value)
        print(f"search: trial {trial.number}: val_top1 {value:.4f}", flush=True)


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# Signs of life


@contextmanager
def _alive(trial: optuna.Trial) -> Iterator[None]:
    """Leave signs of life of a trial in the file, from a thread beside the training."""
    ended = threading.Event()

    def beat() -> None:
        number = 0
        with suppress(UpdateFinishedTrialError):
            while not ended.wait(_SECONDS_BETWEEN_BEATS):
                number += 1
                trial.set_user_attr(_BEAT, number)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _queue_silent(study: optuna.Study) -> bool:
    """Queue the values of trials whose participants are gone; returns whether there are any.

    Waits until each trial that is being trained has shown a sign of life, or has been silent for long. Clocks of
    different machines do not matter.
    """

    def signs() -> dict[int, tuple[Any, int]]:
        running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return {trial.number: (trial.user_attrs.get(_BEAT), len(trial.intermediate_values)) for trial in running}

    before, began = signs(), time.monotonic()
    silent = before
    while silent and time.monotonic() - began < _SECONDS_OF_SILENCE:
        time.sleep(_SECONDS_OF_SILENCE / 100)
        now = signs()
        silent = {number: sign for number, sign in silent.items() if now.get(number) == sign}
    trials = study.get_trials(deepcopy=False)
    for number in silent:
        with suppress(ValueError, UpdateFinishedTrialError):  # another participant was faster
            study.tell(number, state=TrialState.FAIL)
            study.enqueue_trial(trials[number].params)
    return bool(silent)
