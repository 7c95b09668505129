"""Which code depends on which source: a test set must not be answered again because of a source it never reads."""

from bioclip_lite.sources import registry
from bioclip_lite.utils.code_fingerprint import closure

READERS = {  # what suites read with: formats of files, not collections
    *("clip_benchmark", "delimited", "downloads", "fields", "folder", "folder_names", "gzipped", "places", "rows"),
    *("sample", "tars"),
}


def sources_in(module: str) -> set[str]:
    """Modules of ``sources`` in the code that a module depends on."""
    paths = (path.removeprefix("workflow/bioclip_lite/") for path in closure(module))
    return {path.removeprefix("sources/").removesuffix(".py") for path in paths if path.startswith("sources/")}


def test_a_suite_depends_on_readers_of_files_and_on_no_collection() -> None:
    assert sources_in("suites.answering") == READERS | {"__init__"}
    assert sources_in("suites.scoring") == {"__init__", "sample"}


def test_stages_after_the_shards_depend_on_no_source() -> None:
    for stage in ("caption", "teacher", "logits", "distill", "prune", "quantize", "convert", "evaluate"):
        assert sources_in(f"stages.{stage}") == set(), stage


def test_the_index_depends_on_every_source() -> None:
    modules = {source.__name__.rpartition(".")[2] for source in registry.SOURCES.values()}  # type: ignore[attr-defined]
    assert modules | {"registry", "specimens"} <= sources_in("stages.index")
