"""A source that is read by parts, in both engines."""

from pathlib import Path

from support import checkout, thin
from support.checkout import ran, set_parameter, sh

RUN = "snakemake --cores all index"


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data/index").iterdir() if path.is_file()}


def test_parts_are_jobs_of_their_own_and_the_tables_are_those_of_one(tmp_path: Path) -> None:
    folder = thin.new(tmp_path / "project")
    set_parameter(folder, "index.parts", 3)
    two = [f"data/index/read/{part}.parquet" for part in ("00000", "00002")]
    jobs = ran(folder, f"snakemake --cores all -- {' '.join(two)}")
    assert jobs == {"list_parts": 1, "download_part": 3, "read_part": 2}
    assert ran(folder, RUN) == {"read_part": 1, "make_index": 1, "index": 1}
    by_parts = tables(folder)
    assert ran(folder, RUN) == {} == ran(folder, "dvc repro index")

    set_parameter(folder, "index.near_duplicates", 3)  # what is read does not depend on it
    assert ran(folder, "dvc repro index") == {"make_index": 1, "index": 1}
    set_parameter(folder, "index.near_duplicates", 4)
    assert ran(folder, RUN) == {}  # it was made before
    sh(f"dvc remote add -q -d colleagues '{tmp_path}/remote' && dvc push -q", folder)
    sh("git add -A && git commit -q -m parts", folder)

    other = checkout.clone(folder, tmp_path / "clone", pull=False)
    sh("dvc pull -q index data/photographs.dvc", other)
    assert ran(other, RUN) == {} == ran(other, "dvc repro index")
    set_parameter(other, "index.parts", 1)
    assert ran(other, "dvc repro index") == {"make_index": 1, "index": 1}
    assert tables(other) == by_parts
    assert not (other / "data/index/read").exists()

    set_parameter(folder, "index.parts", 1)  # what the parts were read to goes
    assert ran(folder, RUN) == {"make_index": 1, "index": 1}
    assert tables(folder) == by_parts
    assert {path.name for path in (folder / "data/index").iterdir()} == by_parts.keys()
