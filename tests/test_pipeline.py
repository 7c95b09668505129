"""What the tiny pipeline leaves behind is what its users expect."""

import csv
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rocrate.rocrate as rocrate
import webdataset
from safetensors.numpy import load_file

from bioclip_lite.engines import dvc_yaml, stage_code
from bioclip_lite.publishing import run_crate
from bioclip_lite.sources.sample import LABELLED
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.stage_names import STAGES
from support import checkout, ro_crate
from support.checkout import artifacts, planned, repro, settled, sh

pytestmark = pytest.mark.pipeline
VARIANTS = {"teacher", "table", "student", "pruned", "int8", "tfjs", "control", "majority", "random"}


@pytest.fixture(scope="module")
def metrics(built: Path) -> dict:
    return json.loads((built / "data/evaluate/metrics.json").read_text())


def test_everything_is_made_committed_and_clean(built: Path) -> None:
    assert settled(built)
    assert checkout.changed(built) == []
    assert sh("git status --porcelain", built) == ""


def test_dvc_repro_from_nothing_makes_the_same_bytes(built: Path, tmp_path: Path) -> None:
    folder = checkout.with_list(checkout.new(tmp_path / "dvc"))
    stages, _ = repro(folder)
    assert stages == ["code", *STAGES]
    assert planned(folder) == {}
    ours, theirs = artifacts(folder), artifacts(built)
    # Times are measured, so the files that hold them may differ, and nothing else.
    timed = {name for name in ours if "evaluate" in name or name.endswith(("report.json", "history.parquet"))}
    assert {name for name in theirs if ours.get(name) != theirs[name]} <= timed
    assert ours.keys() == theirs.keys()
    other = write_crate(folder, tmp_path / "dvc.zip")
    assert comparable(other, timed) == comparable(write_crate(built, tmp_path / "snakemake.zip"), timed)


def write_crate(folder: Path, file: Path) -> Path:
    said = sh(f"{sys.executable} -m bioclip_lite crate {file}", folder)
    assert f"crate: {file}" in said
    return file


def comparable(crate: Path, timed: set[str]) -> object:
    """What a crate says, without the times that it states and the content of files that hold measured times."""
    with zipfile.ZipFile(crate) as archive:
        about = json.loads(archive.read(run_crate.METADATA))
    own = {"dvc.lock", *map(dvc_yaml.ledger_path, STAGES)}  # which have the hashes of all files
    for entity in about["@graph"]:
        varying = {"startTime", "endTime", "datePublished"}
        if entity.get("name") in timed | own or entity["@type"] == "Dataset":
            varying |= {"md5", "sha256", "contentSize"}
        for name in varying & entity.keys():
            entity[name] = "differs"
    commit = next(entity["version"] for entity in about["@graph"] if entity["@id"] == "Snakefile")
    text = json.dumps(about).replace(commit, "commit").replace(commit[:12], "commit")
    return json.loads(text)


def test_a_crate_of_the_run_is_valid_and_says_how_its_files_were_made(built: Path, tmp_path: Path) -> None:
    file = write_crate(built, tmp_path / "run.zip")
    assert ro_crate.problems(file) == []
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "run")
    crate = rocrate.ROCrate(tmp_path / "run")
    assert crate.mainEntity.id == "Snakefile"
    for entity in crate.get_entities():
        path = tmp_path / "run" / entity.id
        if entity.type == "File" and "://" not in entity.id:
            assert entity["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and path.stat().st_size
    files = {entity["name"] for entity in crate.get_entities() if entity.type == "File" and entity.get("sha256")}
    assert {name for name in artifacts(built) if name.split("/")[1] in STAGES} <= files
    (whole,) = (entity for entity in crate.get_entities() if entity.id == "#run")
    assert {entity["name"] for entity in whole["result"]} >= {"data/convert/tfjs", "data/evaluate/report.html"}
    assert "data/lists/three.csv" in {entity["name"] for entity in whole["object"]}
    job = crate.get("#job/data/quantize/model/graph.json")
    assert job["instrument"]["name"] == "quantize_student" and job["startTime"] <= job["endTime"]
    assert "data/prune/model/model.safetensors" in {entity["name"] for entity in job["object"]}
    commit = sh("git rev-parse HEAD", built).strip()
    assert crate.mainEntity["version"] == job["instrument"]["softwareVersion"] == commit
    values = {entity["name"]: entity["value"] for entity in job["object"] if entity.type == "PropertyValue"}
    assert values["quantize.bytes_per_parameter"] == 1.2
    assert [person["name"] for person in crate.root_dataset["author"]] == ["The bioclip-lite authors"]
    assert "CC0" in crate.get("data/index/ATTRIBUTION.csv")["description"]
    # The validator does look: an action without its tool is no crate.
    about = json.loads((tmp_path / "run" / run_crate.METADATA).read_text())
    next(entity for entity in about["@graph"] if entity["@id"] == job.id).pop("instrument")
    (tmp_path / "run" / run_crate.METADATA).write_text(json.dumps(about))
    assert any(job.id in problem for problem in ro_crate.problems(tmp_path / "run"))


def test_every_variant_is_measured_on_the_same_photographs(built: Path, metrics: dict) -> None:
    samples = pq.read_table(built / "data/index/samples.parquet")
    tests = samples["split"].to_pylist().count("test")
    assert set(metrics["variants"]) == VARIANTS
    for variant in metrics["variants"].values():
        assert variant["n_images"] == tests
        assert variant["label_space"] == 13
        low, high = variant["top1"]["ci95"]
        assert 0 <= low <= variant["top1"]["value"] <= high <= 1
        assert variant["top1"]["value"] <= variant["top5"]["value"]
        assert set(variant["per_rank"]) == set(RANKS)


def test_listed_species_without_photographs_reach_the_web_model(built: Path) -> None:
    taxa = {
        f"{row['genus']} {row['species']}": row for row in pq.read_table(built / "data/index/taxa.parquet").to_pylist()
    }
    bundle = json.loads((built / "data/convert/tfjs/bundle.json").read_text())
    shipped = {" ".join(taxon["ranks"][5:]): taxon for taxon in bundle["taxa"]}
    names = {"Davara nocata", "Mameris alba", "Studipheva lutea"}
    assert {name for name, row in taxa.items() if row["listed"]} == names
    for name in names:
        row, relatives = taxa[name], [other for other in taxa.values() if other["genus"] == taxa[name]["genus"]]
        assert row["leaf"] and not any(row[split] for split in LABELLED)
        assert any(other["train"] and all(other[rank] == row[rank] for rank in RANKS[:6]) for other in relatives)
        assert shipped[name]["id"] == row["taxon_id"]
    assert taxa["Davara nocata"]["kingdom"] == "Thopozoa" and taxa["Davara nocata"]["finest_rank"] == "genus"
    assert shipped["Davara nocata"]["common_names"] == {"de": "Dunkle Davara"}
    assert shipped["Mameris alba"]["common_names"] == {"en": "White bream"}
    text = load_file(built / "data/logits/taxa.safetensors")["text"]
    content = (built / "data/convert/tfjs" / bundle["text"]["file"]).read_bytes()
    count, width = text.shape
    assert count == len(bundle["taxa"]) == 13
    scales = np.frombuffer(content, "<f4", count)
    table = np.frombuffer(content, np.int8, count * width, 4 * count).reshape(count, width) * scales[:, None]
    assert np.abs(table - text).max() < 0.02  # each has the row that the teacher's text tower gave it


def test_what_ships_answers_as_what_was_quantised(built: Path) -> None:
    predictions = built / "data/evaluate/predictions"
    int8, tfjs = (load_file(predictions / variant / "test-00000.safetensors") for variant in ("int8", "tfjs"))
    assert np.abs(int8["embeddings"] - tfjs["embeddings"]).max() < 1e-2
    assert (int8["top"][:, 0] == tfjs["top"][:, 0]).mean() >= 0.97


def test_each_step_makes_the_model_smaller(metrics: dict) -> None:
    variants = metrics["variants"]
    assert variants["pruned"]["macs"] <= 0.7 * variants["student"]["macs"]
    assert variants["pruned"]["params"] < variants["student"]["params"]
    assert variants["int8"]["bytes"] < 0.4 * variants["pruned"]["bytes"]


def test_shards_are_plain_webdatasets(built: Path) -> None:
    sizes = json.loads((built / "data/shard/sizes.json").read_text())
    for name, size in sizes.items():
        samples = list(webdataset.WebDataset(str(built / "data/shard" / name), shardshuffle=False).decode("rgb8"))
        assert len(samples) == size
        assert all(sample["jpg"].ndim == 3 and len(sample["json"]["ranks"]) == 7 for sample in samples)
        with tarfile.open(built / "data/shard" / name) as tar:
            assert {member.mtime for member in tar} == {0}


def test_no_artifact_is_a_pickle_and_nothing_is_half_written(built: Path) -> None:
    files = [path for path in (built / "data").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {
        *(".parquet", ".tar", ".json", ".safetensors", ".bin", ".png", ".html", ".csv", ".md", ""),  # "": .gitignore
    }
    assert not list((built / "data").rglob(".partial-*"))


def test_the_report_stands_alone(built: Path, metrics: dict) -> None:
    report = (built / "data/evaluate/report.html").read_text()
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "<script src" not in report
    for name in ("Teacher", "Student", "Pruned", "INT8", "Web model", "Control", "Majority", "Random"):
        assert name in report
    for variant in metrics["variants"].values():
        assert f"{100 * variant['top1']['value']:.1f}" in report


def test_snakemake_report_holds_page_card_and_figures(built: Path, tmp_path: Path) -> None:
    sh(f"snakemake --report {tmp_path / 'run.zip'} -- evaluate", built)
    with zipfile.ZipFile(tmp_path / "run.zip") as file:
        names = [Path(name) for name in file.namelist() if "/data/raw/" in name]
        page = next(name for name in file.namelist() if name.endswith("/report.html") and "/raw/" not in name)
        text = file.read(page).decode()
    figures = {path.name for path in (built / "data/evaluate/plots").glob("*.png")}
    assert {name.name for name in names} == {"report.html", "MODEL_CARD.md", *figures} and len(figures) == 5
    assert "Share of the test photographs whose taxon is right" in text and "Hugging Face" in text
    assert planned(built) == {}  # looking changes nothing


def test_dvc_shows_metrics_and_plots(built: Path) -> None:
    found = json.loads(sh("dvc metrics show --json", built).splitlines()[-1])[""]["data"]
    assert list(found) == ["data/evaluate/headline.json"]
    assert set(found["data/evaluate/headline.json"]["data"]) == VARIANTS
    plots = json.loads(sh("dvc plots show --json", built).splitlines()[-1])
    shown = {name for name, found in plots["data"].items() if found}
    assert not plots.get("errors") and len(plots["data"]) == 6
    # So few photographs are calibrated on that nothing is promised.
    assert set(plots["data"]) - shown == {"answered_at_each_promise"}


# Dependencies of the automatic LiT columns, captioners and their fine-tuning, the text encoder, suites, the variant in
# Chromium and the web model's other sizes, which tests/tiny.yaml does not ask for.
ON_REQUEST = {
    "caption": [
        "data/index/taxa.parquet",
        *(file for kind in ("captioner", "fine_tuning") for file in stage_code.code("caption", kind)),
    ],
    "logits": ["data/caption"],
    "convert": [
        *("data/distill", "packages/react-bio-clip/bin/text.mjs"),
        *(file for kind in ("text", "list", "tflite", "prior") for file in stage_code.code("convert", kind)),
    ],
    "evaluate": [
        *stage_code.code("evaluate", "suite"),
        *(f"packages/react-bio-clip/bin/{name}.mjs" for name in ("browser", "chromium", "page")),
        "workflow/envs/convert.txt",
    ],
}


def test_dvc_yaml_says_what_the_graph_says(built: Path) -> None:
    text = sh("snakemake --detailed-summary -- evaluate 2>/dev/null", built)
    head, *rows = [row for row in csv.reader(io.StringIO(text), delimiter="\t") if len(row) > 6]
    outputs, inputs, rules = (head.index(name) for name in ("output_file", "input-file(s)", "rule"))
    stages = provenance_view(built)
    problems = []
    for stage, view in stages.items():
        # read only where params.yaml asks for it
        used = {f"workflow/rules/{stage}.smk", *ON_REQUEST.get(stage, [])}
        used |= {f"data/{brought}" for brought in ("weights", "lists", "suites", "captions")}
        made = set()
        for row in rows:
            out = dvc_yaml.within(row[outputs], view["outs"])
            if row[rules] == f"record_{stage}" or out is None:
                continue
            made.add(out)
            paths = row[inputs].split(",")
            code = [path for path in paths if stage_code.is_of_jobs(path)]
            modules = [module for path in code for module in stage_code.parse((built / path).read_text())]
            for path in {*paths, *modules} - set(code):
                if dvc_yaml.within(path, view["outs"]) or "/ready-" in path:
                    continue  # made within the stage, or an environment
                dep = dvc_yaml.within(path, view["deps"])
                used.add(dep or path)
                if dep is None:
                    problems.append(f"{stage}: add the dependency {path}")
        problems += [f"{stage}: nothing uses the dependency {dep}" for dep in sorted(set(view["deps"]) - used)]
        problems += [f"{stage}: no rule makes {out}" for out in sorted(set(view["outs"]) - made)]
    assert not problems, "\n".join(problems)


def provenance_view(folder: Path) -> dict[str, dict[str, list[str]]]:
    here = Path.cwd()
    try:
        os.chdir(folder)
        dvc_yaml.dvc_stages.cache_clear()
        return {name: {**stage, "deps": dvc_yaml.inputs(name)} for name, stage in dvc_yaml.dvc_stages().items()}
    finally:
        os.chdir(here)
        dvc_yaml.dvc_stages.cache_clear()


def test_jobs_that_embed_on_gpus_share_the_cores(tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "new")
    for visible, expected in (("", set()), ("0,1", {"4"})):  # one thread is not told of
        output = sh(
            f"CUDA_VISIBLE_DEVICES={visible} snakemake --workflow-profile none --cores 8 --dry-run -- logits", folder
        )
        jobs = [job for job in output.split("\nrule ") if job.startswith("embed_shard:")]
        assert len(jobs) > 1
        assert {found for job in jobs for found in re.findall(r"^    threads: (\d+)$", job, re.MULTILINE)} == expected
