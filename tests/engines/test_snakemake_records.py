"""Our reading and writing of Snakemake's records, beside the class that Snakemake has for it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence

from bioclip_lite.engines import snakemake_records
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.records import Records

FOLDER = Path(__file__).parent  # any that exists

NAMES = [
    "data/a.json",
    "data/prune/Größe & Maß.bin",
    "data/" + "long/" * 60 + "a.json",
    "data/" + "long/" * 60 + "b.json",
]
RECORD = {
    "rule": "prune",
    "input": ["data/a", "data/b"],
    "params": ["'{\"alpha\": 0.5}'"],
    "code": "python",
    "conda_env": None,
    "input_checksums": {"data/a": "0" * 64},
    "record_format_version": snakemake_records.VERSION,
    "starttime": 1700000000.25,
    "endtime": 1700000001.5,
    "incomplete": False,
}


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FilePersistence:
    monkeypatch.chdir(tmp_path)
    return FilePersistence(nolock=True)


def test_the_form_is_of_the_version_that_is_installed() -> None:
    assert snakemake_records.VERSION == RECORD_FORMAT_VERSION


@pytest.mark.parametrize("name", NAMES)
def test_either_reads_what_the_other_has_written(theirs: FilePersistence, name: str) -> None:
    assert snakemake_records.read(name) == {}
    snakemake_records.write(name, RECORD)
    read = theirs._read_record(name)
    assert read is not None and {field: read[field] for field in RECORD} == RECORD
    theirs._write_record(name, MetadataRecord(**RECORD | {"rule": "quantize"}))
    assert {field: snakemake_records.read(name)[field] for field in RECORD} == RECORD | {"rule": "quantize"}


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=400))
def test_a_record_lies_where_snakemake_looks_for_it(name: str) -> None:
    store = object.__new__(FilePersistence)  # as opening one makes folders
    store._max_len = None
    assert str(snakemake_records.place(name, FOLDER)) == store._record_path(str(FOLDER), name)


def test_both_know_of_a_job_that_has_begun(theirs: FilePersistence) -> None:
    assert not any(map(snakemake_records.in_progress, NAMES))
    for name in NAMES[::2]:
        theirs._io_write(theirs._incomplete_path, {"external_jobid": None}, name)
    assert [snakemake_records.in_progress(name) for name in NAMES] == [True, False, True, False]
    assert theirs._filter_incomplete_keys(NAMES) == set(NAMES[::2])


def test_what_is_deleted_is_gone_and_leaves_no_folder(theirs: FilePersistence) -> None:
    for name in NAMES:
        snakemake_records.write(name, RECORD)
    for name in NAMES:
        snakemake_records.delete(name)
        assert theirs._read_record(name) is None
    snakemake_records.delete("never/written")
    assert list(snakemake_records.FOLDER.rglob("*")) == []


def test_a_record_that_was_cut_off_counts_as_none(theirs: FilePersistence) -> None:
    snakemake_records.write(NAMES[0], RECORD)
    where = snakemake_records.place(NAMES[0])
    where.write_text(where.read_text()[:40])
    assert snakemake_records.read(NAMES[0]) == {}


def test_the_group_may_write_records(theirs: FilePersistence) -> None:
    snakemake_records.write(NAMES[0], RECORD)
    assert snakemake_records.place(NAMES[0]).stat().st_mode & 0o777 == 0o660


def test_snakemake_takes_our_folders_for_those_of_its_own_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    snakemake_records.prepare()
    snakemake_records.write(NAMES[0], RECORD)
    FilePersistence(nolock=True)
    assert "Migrating" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(("change", "seconds"), [({}, 1.25), ({"params": ["other"]}, 0), ({"in": {"data/a": "1"}}, 0)])
def test_a_job_that_ran_here_took_as_long_whoever_sets_the_time_of_its_output(
    theirs: FilePersistence, change: dict[str, object], seconds: float
) -> None:
    Path("out").write_text("made")
    snakemake_records.write("out", RECORD)
    job: dict[str, Any] = {**RECORD, "in": {"data/a": "0", "data/b": "1"}} | change
    Records(Hashes()).learn("out", job)
    learned = snakemake_records.read("out")
    assert Records(Hashes()).describes("out") and learned["endtime"] > RECORD["endtime"]
    assert learned["endtime"] - learned["starttime"] == pytest.approx(seconds, abs=1e-5)
    assert learned["params"] == job["params"] and learned["input"] == sorted(job["in"])
