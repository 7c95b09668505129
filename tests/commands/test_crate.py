"""Find what keeps a run from being packed: unpublishable photographs, uncommitted code, other files."""

import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from bioclip_lite.commands import crate
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_table
from support.checkout import clone, sh

REPORT, SIGNATURE = "data/evaluate/report.html", "data/convert/tfjs/bundle.json.sig"


def write_samples(licences: dict[str, str | None]) -> None:
    rows = [
        {"key": key, "locator": f"{key}.jpg", "split": "test", "licence": licence, "attribution": "A. Nyone"}
        for key, licence in licences.items()
    ]
    origin = json.dumps({"source": "folder", "path": "data/photographs"})
    write_table("data/index/samples.parquet", pa.Table.from_pylist(rows).replace_schema_metadata({"source": origin}))


def test_photographs_that_may_not_be_published_are_named_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (REPORT, "data/evaluate/plots/chart.png", "data/index/ATTRIBUTION.csv", "LICENSE", SIGNATURE):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    write_samples({"a": "CC-BY", "b": "all rights reserved", "c": None})
    packed = list(crate._packed([]))
    assert {*packed} == {REPORT, SIGNATURE, "data/evaluate/plots/chart.png", "data/index/ATTRIBUTION.csv", "LICENSE"}
    with pytest.raises(UserError) as error:
        crate._check_photographs({name: Path(name) for name in packed})
    message = str(error.value)
    assert f'{REPORT}: 2 of 3: 1 "all rights reserved", 1 without a licence; e.g. b by A. Nyone' in message
    assert f"--leave-out {REPORT}" in message and "chart.png" not in message
    left = list(crate._packed([REPORT]))
    assert set(packed) - set(left) == {REPORT}
    crate._check_photographs({name: Path(name) for name in left})
    with pytest.raises(UserError, match="is no part of the crate"):
        list(crate._packed(["data/shard"]))
    write_samples({"a": "CC-BY", "b": "CC0"})
    crate._check_photographs({name: Path(name) for name in packed})


@pytest.mark.pipeline
def test_a_crate_is_of_a_finished_run_and_a_commit(thin_built: Path, tmp_path: Path) -> None:
    folder, file = clone(thin_built, tmp_path / "clone"), tmp_path / "run.zip"

    def refused(options: str = "") -> str:
        said = sh(f"python -m bioclip_lite crate {file} {options}; test $? = 1", folder)
        assert "Traceback" not in said and len(said.splitlines()) == 1, said
        return said

    file.write_bytes(b"mine")
    assert "would be lost" in refused()
    file.unlink()
    rule = folder / "workflow/rules/prune.smk"
    before = rule.read_text()
    rule.write_text(before + "\n\n# a comment\n")
    assert "no commit holds the code as it is here (1 changes: M workflow/rules/prune.smk" in refused()
    rule.write_text(before)
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("images: 4", "images: 3"))
    assert "1 convert_student" in refused()
    (folder / "params.yaml").write_text(params)
    (folder / "CITATION.cff").rename(tmp_path / "CITATION.cff")
    assert "CITATION.cff is missing" in refused()
    (tmp_path / "CITATION.cff").rename(folder / "CITATION.cff")
    sh(f"python -m bioclip_lite crate {file} --leave-out {REPORT}", folder)
    first = file.read_bytes()
    sh(f"python -m bioclip_lite crate {file} --leave-out {REPORT}", folder)
    assert file.read_bytes() == first  # an earlier crate is replaced, by equal bytes
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        about = json.loads(archive.read("ro-crate-metadata.json"))["@graph"]
    assert REPORT not in names and not any(name.endswith(".tar") for name in names)
    described = {entity["@id"]: entity for entity in about}
    assert len(described[f"arcp://name,bioclip-lite/{REPORT}"]["sha256"]) == 64
