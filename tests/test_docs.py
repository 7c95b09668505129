"""README.md and docs/: their commands run, their options, parameters, links and messages exist."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import yaml

from bioclip_lite.commands.completion import whole_parser
from bioclip_lite.utils.command_line import COMMANDS
from bioclip_lite.utils.files import read_table
from bioclip_lite.utils.stage_names import STAGES
from support import checkout
from support.checkout import ROOT
from support.photographs import encoded, picture
from test_architecture import FLOORS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
MARK = re.compile(r"<!-- not run: \S.*-->\n+$")
CI = ".github/workflows/ci.yml"
# Patterns of whole commands, each with a file and the text in it that runs such a command.
RUN_BY = (
    ("make (evaluate|setup|check)", CI, "make {0}"),
    ("make test", ".ci/run", "make test"),
    ("make demo", "tests/web/test_demo.py", "def test_the_page_in_chromium"),
    ("source .venv/bin/activate", CI, "source .venv/bin/activate"),
    ('python -m pytest -m "not pipeline"', CI, 'python -m pytest -m "not pipeline"'),
    ("snakemake --cores all (evaluate|index)", "tests/support/checkout.py", "snakemake --cores all {options}"),
    ("snakemake --cores all --forcerun embed_shard -- logits", "tests/stages/test_logits.py", "--forcerun embed_shard"),
    ("snakemake --unlock", "tests/engines/test_sync.py", '"snakemake --unlock"'),
    ("snakemake --report run.zip -- evaluate", "tests/test_pipeline.py", "snakemake --report"),
    ("snakemake --profile workflow/profiles/slurm .*", "tests/engines/test_slurm.py", "snakemake --profile"),
    ("SNAKEMAKE_PROFILE=workflow/profiles/slurm dvc repro", "tests/engines/test_slurm.py", '"SNAKEMAKE_PROFILE"'),
    ("dvc repro", "tests/support/checkout.py", '"dvc repro"'),
    ("dvc metrics diff v1.0", "tests/commands/test_compare.py", "dvc metrics diff"),
    ("dvc plots diff v1.0 HEAD", "tests/commands/test_compare.py", "dvc plots"),
    ("dvc remote add -d lab .*", "tests/engines/test_remotes.py", "dvc remote add -q -f -d lab"),
    ("dvc remote modify lab verify true", "tests/engines/test_remotes.py", "dvc remote modify lab verify true"),
    ("git add .dvc/config && git commit .*", "tests/engines/test_run_cache.py", "git commit -q -a -m remote"),
    ("echo public >> .dvc/public_remotes && git add .*", "tests/commands/test_push.py", ".dvc/public_remotes"),
    ("mkdir -p ~/.local/share/bash-completion/completions", "tests/test_cli.py", "source {script}"),
    ("bioclip-lite (push|pull)( .*)?", "tests/engines/test_remotes.py", "python -m bioclip_lite {0}"),
    ("bioclip-lite status", "tests/engines/test_sync.py", "python -m bioclip_lite status"),
    ("bioclip-lite why .*", "tests/commands/test_why.py", "why.main(["),
    (
        "bioclip-lite plan 10000000 --taxa 450000",
        "tests/commands/test_plan.py",
        "bioclip_lite plan 10000000 --taxa 450000",
    ),
    ("bioclip-lite init .*", "tests/commands/test_init.py", "init.main(["),
    ("make init .*", "tests/test_paths.py", 'command=("init",)'),
    ("bioclip-lite search rates.yaml", "tests/commands/test_search.py", "command.main([file])"),
    ("bioclip-lite captioner .*", "tests/captioning/test_coca.py", "command.main(["),
    ("bioclip-lite teacher model --processes 4", "tests/training/test_open_clip_training.py", '"--processes"'),
    ("bioclip-lite predict .*", "tests/commands/test_predict.py", "predict.main(["),
    ("bioclip-lite recalibrate .*", "tests/commands/test_recalibrate.py", "recalibrate.main(["),
    ("bioclip-lite relist .*", "tests/commands/test_relist.py", "relist.main(["),
    ("bioclip-lite verify .*", "tests/web/test_manifest.py", "command.main(["),
    ("bioclip-lite export-cache cache", "tests/publishing/test_cache_export.py", "export_cache.main(["),
    ("bioclip-lite crate run.zip", "tests/commands/test_crate.py", "python -m bioclip_lite crate"),
    ("bioclip-lite compare .*", "tests/commands/test_compare.py", "compare.main("),
    ("bioclip-lite verify-cache", "tests/commands/test_verify_cache.py", "main(["),
    ("bioclip-lite completion bash > .*", "tests/test_cli.py", 'completion.main(["bash"])'),
    ("bioclip-lite (prune|quantize)", "tests/test_cli.py", '"{0}"'),
    ("bioclip-lite distill --processes 2", "tests/training/test_distributed.py", "processes: int = 2"),
)


class Command(NamedTuple):
    page: str
    line: str
    marked: bool  # with the reason why nothing runs it


def commands() -> Iterator[Command]:
    """Commands of all fenced blocks of a shell, with continued lines joined and comments removed."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^ *```(?:sh|bash|console)\n(.*?)^ *```", text, re.M | re.S):
            marked = bool(MARK.search(text[: block.start()]))
            for line in block[1].replace("\\\n", " ").splitlines():
                if command := re.sub(r"(^|\s+)# .*", "", line).strip():
                    yield Command(page.name, command, marked)


def test_every_command_is_run_by_a_test_or_says_why_not() -> None:
    found = list(commands())
    assert len(found) > 40
    for command in found:
        runs = [(re.fullmatch(pattern, command.line), file, text) for pattern, file, text in RUN_BY]
        ran_by = [(match, file, text) for match, file, text in runs if match]
        assert command.marked or ran_by, f"{command.page}: nothing runs `{command.line}`, and no mark says why"
        for match, file, text in ran_by:
            wanted = text.replace("{0}", match[1] if match.groups() else "")
            assert wanted in (ROOT / file).read_text(), f"{file} does not run `{command.line}`"
    for pattern, *_ in RUN_BY:
        assert any(re.fullmatch(pattern, command.line) for command in found), f"no page has {pattern}"


def test_bash_can_read_every_command() -> None:
    for command in commands():
        line = re.sub(r"<[\w .-]+>", "WORD", command.line)
        done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True)
        assert done.returncode == 0, f"{command.page}: {line}\n{done.stderr}"


def test_the_command_line_takes_every_command_of_ours() -> None:
    parser = whole_parser()
    lines = [re.split(r" [|>] ?", command.line)[0] for command in commands()]
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines += re.findall(r"`(bioclip-lite [^`\n<]+|python -m bioclip_lite [^`\n<]+)`", text)
    ours = [re.sub("^python -m bioclip_lite", "bioclip-lite", line) for line in lines]
    ours = [line for line in ours if line.startswith("bioclip-lite ") and not re.search(r" (COMMAND|--version)", line)]
    assert len(ours) > 20
    for line in ours:
        if re.fullmatch(r"bioclip-lite [\w-]+", line) and line not in {command.line for command in commands()}:
            assert line.split()[1] in (*STAGES, *COMMANDS), line  # a sentence that names it, without its arguments
            continue
        try:
            parser.parse_args(shlex.split(line)[1:])
        except SystemExit:
            pytest.fail(f"the command line refuses: {line}")


def test_make_stages_and_benchmarks_have_what_is_named() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert {line.split()[1] for _, line, _ in commands() if line.startswith("make ")} <= set(targets)
    for page in LINKED:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"`(?:[A-Z]\w*=\S+ )?make (\w+)", text)) <= set(targets), page.name
        assert set(re.findall(r"--cores all (\w+)", text)) <= set(STAGES), page.name
        for name in re.findall(r"python ((?:benchmarks|docs)/[\w/]+\.py)", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


# ---- links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    for page in LINKED:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                path, _, anchor = link.partition("#")
                target = page.parent / path if path else page
                assert target.exists(), f"{page.name}: {link}"
                assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_and_every_benchmark_is_linked() -> None:
    targets = set()
    for page in PAGES:
        links = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
        targets |= {(page.parent / link).resolve() for link in links if "://" not in link}
    assert {page.name for page in PAGES[1:]} <= {target.name for target in targets}
    assert set((ROOT / "benchmarks").glob("*.md")) <= targets


def test_the_site_has_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in navigation, page.name
    for page in (ROOT / "benchmarks").glob("*.md"):
        assert f": results/{page.name}\n" in navigation, page.name


# ---- what is said about the code


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_command_line_is_what_the_parsers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [""])
    monkeypatch.setenv("COLUMNS", "80")
    page = script("command_line").page()
    assert (ROOT / "docs" / "command-line.md").read_text() == page, "run: python docs/hooks/command_line.py"


@cache
def messages() -> list[str]:
    """Every text of the package, with … where a value is put in; adjacent literals are one text."""
    found = []
    for path in (ROOT / "workflow" / "bioclip_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_quoted_messages_exist() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^### `(.+)`$", text, re.M)
    assert len(quoted) >= 25
    for message in quoted:
        assert any(message in each for each in messages()), f"no message of the code reads: {message}"


def test_the_floors_of_the_architecture_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").replace("\\", "")
    rows = {int(number): set(names.split(", ")) for number, names in re.findall(r"^\| (\d) \| (.+) \|$", text, re.M)}
    assert rows == dict(enumerate(FLOORS, start=1))
    drawn = dict(re.findall(r'\bf(\d)\["(.+?)"\]', text))
    assert {int(number): set(names.split(" · ")) for number, names in drawn.items()} == rows


def test_the_architecture_says_where_every_folder_and_stage_belongs() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "workflow" / "bioclip_lite").glob("*/__init__.py")}
    answers = text[text.index("## Where does it live?") : text.index("## Two engines")]
    assert folders - {"utils"} <= set(re.findall(r"`(\w+)/`", answers))
    data = text[: text.index("## Floors")]
    assert re.findall(r"^\| (\w+) \| .+ \| .+ \|$", data, re.M)[1:] == list(STAGES)  # below the header


def test_parameters_that_pages_name_exist() -> None:
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "params.schema.yaml").read_text())
    names = {(page.name, name) for page in PAGES for name in parameters_in(page.read_text(encoding="utf-8"))}
    assert len(names) > 40
    for page, name in names:
        place = schema
        for step in name.split("."):
            while "$ref" in place:
                place = schema["$defs"][place["$ref"].rpartition("/")[2]]
            assert "properties" not in place or step in place["properties"], f"{page}: there is no parameter {name}"
            place = place.get("properties", {}).get(step, {})


def parameters_in(text: str) -> set[str]:
    """Names such as distill.student_options that stand in backticks, alone or with a value."""
    return set(re.findall(rf"`((?:{'|'.join(STAGES)})\.[a-z_.]+\b)[:`]", text))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6 * 1024


# ---- CONTRIBUTING.md


def files_to_touch(kind: str) -> list[Path]:
    """The files that the table of CONTRIBUTING.md lists, relative to the repository."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {kind} \| (.+) \|$", text, re.M)
    names = re.findall(r"`([\w/.]+)`", row)
    return [Path(name if (ROOT / name.split("/")[0]).exists() else f"workflow/bioclip_lite/{name}") for name in names]


HERBARIUM = '''"""Source herbarium: sheets in one folder, named "Genus epithet NUMBER.jpg"."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy


def samples(params: dict[str, Any]) -> Iterator[Sample | Reject]:
    for file in sorted(Path(params["path"]).iterdir()):
        words = file.stem.split()
        if len(words) == 3:
            key = key_of(file.name)
            taxon = taxonomy.make_path({"genus": words[0], "species": words[1]})
            yield Sample(key=key, locator=file.name, group=key, path=taxon)
        else:
            yield Reject(file.name, "bad name", "a sheet is named by genus, epithet and number")


def read(params: dict[str, Any], locator: str) -> bytes:
    return Path(params["path"], locator).read_bytes()
'''
TEST_OF_HERBARIUM = """from pathlib import Path

from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import Reject


def test_names_are_taxa_and_other_files_are_rejected(tmp_path: Path) -> None:
    for name in ("Quercus robur 1.jpg", "label.jpg"):
        (tmp_path / name).touch()
    first, second = find_source("herbarium").samples({"path": str(tmp_path)})
    assert first.path[-2:] == ("Quercus", "robur")
    assert isinstance(second, Reject)
"""


def test_files_to_touch_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("| to add |") : text.index("## A source, step by step")]
    kinds = re.findall(r"^\| ((?:a|an) [\w ]+) \|", table, re.M)
    assert len(kinds) >= 7
    for kind in kinds:
        for path in files_to_touch(kind):
            new = re.search("NAME|GROUP", path.name)
            assert (ROOT / path.parent).is_dir() if new else (ROOT / path).is_file(), f"{kind}: {path}"


def test_a_source_takes_the_files_that_the_table_lists_and_no_other(tmp_path: Path) -> None:
    repository = checkout.new(tmp_path / "repository")
    module, registry, test = (Path(str(path).replace("NAME", "herbarium")) for path in files_to_touch("a source"))
    (repository / module).write_text(HERBARIUM)
    text = (repository / registry).read_text()
    first = "from bioclip_lite.sources.sample import"
    text = text.replace(first, f"from bioclip_lite.sources import herbarium\n{first}")
    text = text.replace('    "folder": folder,\n', '    "folder": folder,\n    "herbarium": herbarium,\n')
    (repository / registry).write_text(text)
    (repository / test).write_text(TEST_OF_HERBARIUM)
    sheets = repository / "data" / "photos"
    sheets.mkdir()
    for species in ("Quercus robur", "Quercus petraea", "Fagus sylvatica"):
        for number in range(12):
            (sheets / f"{species} {number}.jpg").write_bytes(encoded(picture(f"{species} {number}")))
    (sheets / "label.jpg").write_bytes(b"")
    checkout.set_parameter(repository, "index.source", "herbarium")
    checkout.set_parameter(repository, "index.path", "data/photos")
    checkout.set_parameter(repository, "shard.counts.pretrain", 0)

    own = f"{checkout.COLD} PYTHONPATH=workflow:tests"  # the package of the copy, not the one that is installed
    checkout.sh(f"{own} python -m pytest -q -p no:cacheprovider {test}", repository)
    assert "make_index" in checkout.sh(f"{own} snakemake --dry-run index", repository)
    checkout.sh(f"{own} python -m bioclip_lite index", repository)
    taxa = read_table(repository / "data" / "index" / "taxa.parquet").to_pylist()
    assert {row["species"] for row in taxa if row["species"]} == {"robur", "petraea", "sylvatica"}
    (reject,) = read_table(repository / "data" / "index" / "rejects.parquet").to_pylist()
    assert (reject["locator"], reject["reason"]) == ("label.jpg", "bad name")
    # The engines refresh the fingerprints of the code themselves.
    changed = checkout.sh("git status --porcelain -uall -- ':!workflow/code'", repository).split()[1::2]
    assert sorted(changed) == sorted(["params.yaml", *map(str, (module, registry, test))])


TEST_OF_DISTANCE = """

def test_distance() -> None:
    assert losses.distance(torch.ones(4), torch.zeros(4)) == 2
"""
WEIGHT_IN_A_JOB = """from pathlib import Path
from bioclip_lite import params
from bioclip_lite.training.losses import Weights

section = params.of_job(params.load(Path("params.yaml")), "distill", "student")
print(Weights.of(section).distance)
"""


def test_a_loss_takes_the_files_that_the_table_lists_and_no_other(tmp_path: Path) -> None:
    repository = checkout.new(tmp_path / "repository")
    losses, schema, test = files_to_touch("a loss")

    def add(file: Path, before: str, addition: str) -> None:
        text = (repository / file).read_text()
        assert before in text
        (repository / file).write_text(text.replace(before, addition + before, 1))

    add(losses, "    captions: float = 1.0", "    distance: float = 0.0\n")
    function = "def distance(student, teacher):\n    return (student - teacher).norm()\n\n\n"
    add(losses, "# By the name of the weight", function)
    entry = '    "distance": Loss(PhotographAnswers, lambda x: distance(x.embedding, x.targets[0])),\n'
    add(losses, '    "labels": Loss(', entry)
    parameter = 'description: A distance.\n        default: 0.25\n        $ref: "#/$defs/weight"\n'
    add(schema, "      labels:\n        description: Weight of", f"      distance:\n        {parameter}")
    with (repository / test).open("a") as file:
        file.write(TEST_OF_DISTANCE)

    own = f"{checkout.COLD} PYTHONPATH=workflow:tests"
    checkout.sh(f"{own} python -m bioclip_lite.params.reference", repository)
    tests = "test_distance or test_each_loss_counts or test_every_loss_has"
    output = checkout.sh(f"{own} python -m pytest -q -p no:cacheprovider {test} -k '{tests}'", repository)
    assert re.search(r"^\d+ passed", output, re.M)
    assert checkout.sh(f"{own} python -c '{WEIGHT_IN_A_JOB}'", repository).strip() == "0.25"
    generated = ("workflow/defaults.yaml", "workflow/bioclip_lite/utils/sections.py", "docs/parameters.md")
    changed = checkout.sh("git status --porcelain -uall -- ':!workflow/code'", repository).split()[1::2]
    assert sorted(changed) == sorted([*map(str, (losses, schema, test)), *generated])
