"""Describe a finished run as a Workflow Run RO-Crate (profile Provenance Run Crate 0.5), from the ledgers.

A rule of Snakemake is a tool and a step, a job an action; what jobs read and made are files with their SHA-256, the
code is a git commit. A file that the crate does not pack has an address in the scheme arcp (Archive and Package), which
says its place in the run. Both engines write the same ledgers, so they give the same crate but for times.

https://w3id.org/ro/wfrun/provenance/0.5 and https://w3id.org/ro/crate/1.1
"""

import ast
import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from bioclip_lite.engines import snakemake_records
from bioclip_lite.engines.dvc_yaml import ledger_path, parameter
from bioclip_lite.engines.ledger import files_of
from bioclip_lite.utils.files import read_json, require
from bioclip_lite.utils.spreadsheets import unguarded
from bioclip_lite.utils.stage_names import STAGES

METADATA = "ro-crate-metadata.json"
BUNDLE = "data/convert/tfjs"
CREDITS = Path("data/index/ATTRIBUTION.csv")
_ELSEWHERE = "arcp://name,bioclip-lite/"  # of files that are not packed
_CODE = ("workflow/", "packages/", ".venv", "Snakefile")  # where inputs lie that the commit accounts for
_WORKFLOW_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    _WORKFLOW_CRATE: ("Workflow RO-Crate", "1.0"),
}
_TERMS = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("md5", "sha256")}
_TYPES = {".json": "application/json", ".html": "text/html", ".md": "text/markdown", ".csv": "text/csv"}

Entity = dict[str, Any]


class Job(NamedTuple):
    """A job of a stage, and what it read and made: path -> MD5, that of a folder ending in ".dir"."""

    stage: str
    rule: str
    command: str
    parameters: dict[str, Any]
    read: dict[str, str]
    made: dict[str, str]

    @property
    def name(self) -> str:
        return min(self.made)


class Run(NamedTuple):
    """A finished run."""

    jobs: list[Job]
    files: dict[str, str]  # path -> MD5 of every file that a stage made
    commit: str
    citation: dict[str, Any]  # CITATION.cff


def read_jobs() -> tuple[list[Job], dict[str, str]]:
    """Read the ledgers of all stages: (jobs in the order of the stages, MD5 of each file that they made)."""
    jobs: list[Job] = []
    files: dict[str, str] = {}
    for stage in STAGES:
        ledger = read_json(ledger_path(stage))
        files |= dict(files_of(ledger))
        together: dict[str, dict[str, str]] = {}
        for out, made in ledger["jobs"].items():
            together.setdefault(json.dumps([made["definition"], made["in"]], sort_keys=True), {})[out] = made["md5"]
        for key, outs in together.items():
            number, read = json.loads(key)
            definition = ledger["definitions"][number]
            parameters = json.loads(ast.literal_eval(definition["params"][0])) if definition["params"] else {}
            read = {path: md5 for path, md5 in read.items() if not path.startswith(_CODE)}
            jobs.append(Job(stage, definition["rule"], definition["code"], parameters, read, outs))
    return jobs, files


# What is in a crate


def describe(run: Run, packed: Mapping[str, Path]) -> Entity:
    """Make the content of ro-crate-metadata.json.

    Args:
        packed: the files that the crate will hold, by path in it.
    """
    graph = _Graph(packed)
    tools = _tools(graph, run)
    for path, md5 in run.files.items():
        graph.file(path, md5)
    actions = [_action(graph, job) for job in run.jobs]
    workflow = _workflow(graph, run, tools)
    _run_of_workflow(graph, run, workflow, actions)
    for path in packed:
        graph.file(path)
    _licences(graph)
    root = _root(graph, run, workflow, actions)
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": [{"@id": "https://w3id.org/ro/crate/1.1"}, {"@id": _WORKFLOW_CRATE}],
    }
    rest = sorted((entity for name, entity in graph.entities.items() if name != "./"), key=lambda entity: entity["@id"])
    return {"@context": ["https://w3id.org/ro/crate/1.1/context", _TERMS], "@graph": [descriptor, root, *rest]}


class _Graph:
    """The entities of a crate by @id."""

    def __init__(self, packed: Mapping[str, Path]) -> None:
        self.entities: dict[str, Entity] = {}
        self._packed = packed

    def add(self, address: str, kind: str | list[str], /, **properties: Any) -> Entity:
        """Add an entity, if it is not there yet, without properties that are None; returns a reference to it."""
        given = {key: value for key, value in properties.items() if value is not None}
        self.entities.setdefault(address, {"@id": address, "@type": kind, **given})
        return {"@id": address}

    def file(self, path: str, md5: str | None = None) -> Entity:
        """Add a file, or a folder with the files in it; returns a reference to it."""
        here = Path(path)
        name = path if path in self._packed else _ELSEWHERE + path
        if here.is_dir() or (md5 or "").endswith(".dir"):
            inside = [file for file in self._packed if file.startswith(path + "/")]
            name = (path if inside else _ELSEWHERE + path) + "/"
            return self.add(name, "Dataset", name=path, md5=md5)
        if name in self.entities:
            return {"@id": name}
        size = str(here.stat().st_size) if here.exists() else None
        digest = sha256(here) if here.exists() else None
        kind = _TYPES.get(PurePath(path).suffix)
        return self.add(name, "File", name=path, md5=md5, sha256=digest, contentSize=size, encodingFormat=kind)


def sha256(path: Path) -> str:
    """SHA-256 of a file of any size, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tools(graph: _Graph, run: Run) -> list[Entity]:
    """Add a tool for each rule, with its parameters."""
    tools = {}
    for job in run.jobs:
        tools[job.rule] = graph.add(
            f"#rule/{job.rule}",
            "SoftwareApplication",
            name=job.rule,
            description=f"Rule {job.rule} of stage {job.stage}: {job.command}",
            softwareVersion=run.commit,
            input=[],
        )
        given = graph.entities[f"#rule/{job.rule}"]["input"]
        for key in job.parameters:
            reference = {"@id": f"#parameter/{job.stage}.{key}"}
            graph.add(reference["@id"], "FormalParameter", name=f"{job.stage}.{key}", additionalType="PropertyValue")
            given.extend([reference] if reference not in given else [])
    return list(tools.values())


def _action(graph: _Graph, job: Job) -> Entity:
    """Add the action of a job."""
    read = [graph.file(path, md5) for path, md5 in sorted(job.read.items())]
    made = [graph.file(path, md5) for path, md5 in sorted(job.made.items())]
    return graph.add(
        f"#job/{job.name}",
        "CreateAction",
        name=f"{job.rule}: {job.name}",
        instrument={"@id": f"#rule/{job.rule}"},
        object=[*read, *(_value(graph, job.stage, key, value) for key, value in sorted(job.parameters.items()))],
        result=made,
        actionStatus="http://schema.org/CompletedActionStatus",
        **_times([job]),
    )


def _value(graph: _Graph, stage: str, key: str, value: Any) -> Entity:
    """Add the value of a parameter; several jobs may share it."""
    text, parameter_id = json.dumps(value, sort_keys=True, ensure_ascii=False), f"#parameter/{stage}.{key}"
    name = f"#value/{stage}.{key}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    shown = value if isinstance(value, str | int | float) and not isinstance(value, bool) else text
    reference = graph.add(
        name, "PropertyValue", name=f"{stage}.{key}", value=shown, exampleOfWork={"@id": parameter_id}
    )
    examples = graph.entities[parameter_id].setdefault("workExample", [])
    examples.extend([reference] if reference not in examples else [])
    return reference


def _times(jobs: Iterable[Job]) -> dict[str, str]:
    """When jobs began and ended, as far as they ran here: a fetched output has no duration in Snakemake's records."""
    records = [snakemake_records.read(path) for job in jobs for path in job.made]
    spans = [(record["starttime"], record["endtime"]) for record in records if record.get("endtime")]
    spans = [(start, end) for start, end in spans if start is not None and start < end]
    if not spans:
        return {}
    began, ended = min(start for start, _ in spans), max(end for _, end in spans)
    return {"startTime": _iso(began), "endTime": _iso(ended)}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


# The workflow, and its run


def _workflow(graph: _Graph, run: Run, tools: list[Entity]) -> Entity:
    steps = []
    for position, (rule, stage) in enumerate({job.rule: job.stage for job in run.jobs}.items(), 1):
        tool = {"@id": f"#rule/{rule}"}
        name = f"{stage}: {rule}"
        steps.append(graph.add(f"#step/{rule}", "HowToStep", name=name, position=str(position), workExample=tool))
    language = graph.add(
        "#snakemake",
        "ComputerLanguage",
        name="Snakemake",
        identifier={"@id": "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"},
        url={"@id": "https://snakemake.readthedocs.io"},
    )
    file = graph.file("Snakefile")
    graph.entities[file["@id"]] |= {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        "name": "Snakefile",
        "version": run.commit,
        "codeRepository": run.citation.get("repository-code"),
        "programmingLanguage": language,
        "hasPart": tools,
        "step": steps,
        "input": [_file_parameter(graph, "params.yaml")],
        "output": [_file_parameter(graph, path) for path in _outputs(graph)],
    }
    if graph.entities[file["@id"]]["codeRepository"] is None:
        del graph.entities[file["@id"]]["codeRepository"]
    return file


def _file_parameter(graph: _Graph, path: str) -> Entity:
    """Add the parameter of the workflow that a packed file, or folder, is a value of."""
    example = graph.file(path)
    kind = graph.entities[example["@id"]]["@type"]
    reference = graph.add(
        f"#parameter/{path}", "FormalParameter", name=path, additionalType=kind, workExample=[example]
    )
    graph.entities[example["@id"]]["exampleOfWork"] = reference
    return reference


def _outputs(graph: _Graph) -> Iterator[str]:
    for path in ("data/evaluate/report.html", "data/evaluate/MODEL_CARD.md", BUNDLE):
        if path in graph.entities or path + "/" in graph.entities:
            yield path


def _run_of_workflow(graph: _Graph, run: Run, workflow: Entity, actions: list[Entity]) -> None:
    """Add the action of the whole run, and that of the engine, which had the jobs done."""
    whole = graph.add(
        "#run",
        "CreateAction",
        name="Run of the pipeline",
        instrument=workflow,
        object=[graph.file("params.yaml"), *_sources(graph, run)],
        result=[graph.file(path) for path in _outputs(graph)],
        actionStatus="http://schema.org/CompletedActionStatus",
        **_times(run.jobs),
    )
    controls = [
        graph.add(
            action["@id"].replace("#job/", "#control/", 1),
            "ControlAction",
            name=f"Run {job.rule}",
            instrument={"@id": f"#step/{job.rule}"},
            object=action,
        )
        for job, action in zip(run.jobs, actions, strict=True)
    ]
    engine = graph.add(
        "#engine",
        "SoftwareApplication",
        name="Snakemake",
        url={"@id": "https://snakemake.readthedocs.io"},
        softwareVersion=version("snakemake"),
    )
    graph.add("#organized", "OrganizeAction", name="Run of the jobs", instrument=engine, object=controls, result=whole)


def _sources(graph: _Graph, run: Run) -> list[Entity]:
    """What jobs read and no job made: photographs, lists, weights."""
    made = {out for job in run.jobs for out in job.made} | run.files.keys()
    read = {path: md5 for job in run.jobs for path, md5 in job.read.items() if path not in made}
    return [graph.file(path, md5) for path, md5 in sorted(read.items())]


# Licences and people


def _licences(graph: _Graph) -> None:
    """State the licences of what the bundle was made from, and how many photographs have which licence."""
    manifest = Path(BUNDLE, "bundle.json")
    said = read_json(manifest)["licences"] if manifest.exists() else {}
    made_from = [_licence(graph, said[name], name) for name in ("teacher", "initial_weights") if said.get(name)]
    graph.entities[graph.file(BUNDLE)["@id"]] |= {"license": made_from} if made_from else {}
    with require(CREDITS).open(newline="", encoding="utf-8") as file:
        counts = Counter(unguarded(row["licence"]) or "not stated" for row in csv.DictReader(file))
    credits = ", ".join(f"{count} {licence}" for licence, count in sorted(counts.items()))
    credits = f"Owners and licences of the photographs: {credits}"
    graph.entities[graph.file(CREDITS.as_posix())["@id"]]["description"] = credits


def _licence(graph: _Graph, name: str, of: str) -> Entity:
    if name.startswith("http"):
        return graph.add(name, "CreativeWork", name=name)
    return graph.add(
        f"#licence/{name}", "CreativeWork", name=name, description=f"Licence of the {of.replace('_', ' ')}"
    )


def _people(graph: _Graph, citation: Mapping[str, Any]) -> list[Entity]:
    """Add the authors in CITATION.cff: persons, and groups, which have a ``name``."""
    return [_person(graph, author) for author in citation["authors"]]


def _person(graph: _Graph, author: Mapping[str, str]) -> Entity:
    parts = ("given-names", "name-particle", "family-names")
    name = author.get("name") or " ".join(author[part] for part in parts if author.get(part))
    address = author.get("orcid") or author.get("website") or f"#author/{name.replace(' ', '-')}"
    place = author.get("affiliation")
    affiliation = graph.add(f"#place/{place.replace(' ', '-')}", "Organization", name=place) if place else None
    return graph.add(address, "Organization" if "name" in author else "Person", name=name, affiliation=affiliation)


def _root(graph: _Graph, run: Run, workflow: Entity, actions: list[Entity]) -> Entity:
    """The crate as a whole; its parts are all files and folders."""
    for address, (name, number) in _PROFILES.items():
        graph.add(address, "CreativeWork", name=name, version=number)
    _folders(graph)
    parts = [name for name, entity in graph.entities.items() if {"File", "Dataset"} & {*_kinds(entity)}]
    citation = run.citation
    licence = f"https://spdx.org/licenses/{citation['license']}"
    graph.add(licence, "CreativeWork", name=citation["license"])
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"{citation['title']}: run of {parameter('index.source')} photographs at {run.commit[:12]}",
        "description": " ".join(citation.get("abstract", citation["title"]).split()),
        "datePublished": datetime.now(UTC).date().isoformat(),
        "license": {"@id": licence},
        "author": _people(graph, citation),
        "conformsTo": [{"@id": address} for address in _PROFILES],
        "mainEntity": workflow,
        "mentions": [{"@id": "#run"}, {"@id": "#organized"}, *actions],
        "hasPart": [{"@id": name} for name in sorted(parts)],
    }


def _folders(graph: _Graph) -> None:
    """Say of each folder which files are in it."""
    folders = {name: entity for name, entity in graph.entities.items() if _kinds(entity) == ["Dataset"]}
    for name in list(graph.entities):
        for folder in {f"{parent}/" for parent in _parents(name)} & folders.keys():
            folders[folder].setdefault("hasPart", []).append({"@id": name})


def _parents(name: str) -> Iterator[str]:
    while "/" in name.removeprefix(_ELSEWHERE):
        name = os.path.dirname(name.removesuffix("/"))
        yield name


def _kinds(entity: Entity) -> list[str]:
    return entity["@type"] if isinstance(entity["@type"], list) else [entity["@type"]]
