"""The tiny pipeline, made once and shared by the tests that need its results."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("support.checkout")  # so that its assertions say what they found

from support import checkout, thin  # noqa: E402

# A worker gets a file of tests at a time. Those that take minutes begin first, so that none is left alone at the end.
LONGEST_FIRST = (
    *("test_sync", "test_remotes", "test_faults", "test_slurm", "test_pipeline", "test_run_cache", "test_why"),
    *("test_distributed", "test_convert", "test_prune", "test_evaluate", "test_logits", "test_trainer", "test_suites"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which `snakemake evaluate` has run, committed, with its artifacts pushed to a local remote."""
    return _run_and_push(checkout.with_list(checkout.new(tmp_path_factory.mktemp("pipeline") / "built")))


@pytest.fixture(scope="session")
def thin_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``built``, of the thinned pipeline (tests/support/thin.py). Not to be changed: clone it."""
    return _run_and_push(thin.new(tmp_path_factory.mktemp("thin") / "built"))


def _run_and_push(folder: Path) -> Path:
    checkout.snakemake(folder)
    remote = folder.parent / "remote"
    checkout.sh(f"dvc remote add -q -d colleagues '{remote}' && dvc push -q", folder)
    checkout.sh("git add -A && git commit -q -m 'all stages'", folder)
    return folder
