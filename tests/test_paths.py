"""Nothing that lay at a path which a user names is lost, whatever lies there.

All options of the type Path are found in the parsers themselves, so that a new one without a case here fails. In every
situation a command works or says in one sentence why not, before any work: no model and no data are here.
"""

import argparse
import hashlib
import importlib
import io
import itertools
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

import pytest

from bioclip_lite import __main__ as cli
from bioclip_lite.captioning import fine_tuning
from bioclip_lite.commands import compare, init, predict
from bioclip_lite.photographs import shards
from bioclip_lite.predicting import csv_table
from bioclip_lite.stages import shard
from bioclip_lite.utils.command_line import COMMANDS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import finished_rows, read_json, write_json
from bioclip_lite.utils.stage_names import STAGES
from support.checkout import ENVIRONMENT, ROOT, sh

PACKAGE = ROOT / "packages" / "react-bio-clip"
BENCHMARKS = sorted(f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py"))
Situation = Callable[[Path], Path]  # makes it in an empty folder; returns the path to name

# For each option that writes a file: the rest of the command line, and the first line of what it writes; None where an
# earlier output is known by more than that, which the tests of the command have.
FILES: dict[tuple[str, str], tuple[list[str], str | None]] = {
    ("predict", "--output"): (["x.png"], ",".join(csv_table.COLUMNS)),
    ("predict", "--log"): (["x.png"], predict.LOG),
    ("compare", "--csv"): (["HEAD"], ",".join(compare.COLUMNS)),
    ("init", "--output"): (["absent"], init.first_line(b"more\n")),
    ("recalibrate", "--output"): (["names.csv"], None),
    ("crate", "output"): ([], None),
    ("benchmarks/distill.py", "--out"): ([], "# Distilled students by loss"),
    ("benchmarks/int8.py", "--out"): ([], "# INT8 by way of rounding"),
    ("benchmarks/prune.py", "--out"): ([], "# Pruned students"),
    ("benchmarks/warmup.py", "--out"): ([], "# Warm-up of teachers"),
    ("benchmarks/web.py", "--out"): (["--params", "absent.yaml"], "# The web model in a browser"),
}
# For each option that writes a folder: the rest of the command line.
FOLDERS: dict[tuple[str, str], list[str]] = {
    ("captioner", "--out"): [],
    ("relist", "--output"): ["list.txt"],
    ("export-cache", "folder"): [],
}
# Lines are added to these, behind what an earlier run has left.
ROWS = {(f"benchmarks/{name}.py", "--rows") for name in ("distill", "list", "prune", "real", "warmup", "web")}
ROWS |= {("search", "--storage")}
CAMERAS = ("--format", "camtrap-dp", "--utc-offset", "+02:00", "--output", "new")
# For each option that reads, or names the data folder: the rest of the command line. Of --data, stages and the other
# commands have their own tests below.
READ: dict[tuple[str, str], list[str]] = {
    ("captioner", "--data"): ["--out", "new"],
    ("captioner", "--from"): ["--out", "new"],
    ("predict", "--data"): ["x.png"],
    **{("predict", option): ["x.png", *CAMERAS] for option in ("--deployments", "--package")},
    **{("relist", option): ["x.png", "--output", "new"] for option in ("--bundle", "--calibration", "--data")},
    ("predict", "--calibration"): ["x.png"],
    ("predict", "--observations"): ["x.png", "--by", "observation"],
    ("recalibrate", "table"): ["--output", "new"],
    ("recalibrate", "--data"): ["x.png", "--output", "new"],
    ("verify", "bundle"): ["--key", "x.png"],
    ("verify", "--key"): ["x.png"],
    ("export-cache", "--data"): ["new"],
    ("search", "space"): ["--params", str(ROOT / "tests/tiny.yaml")],
    ("search", "--params"): ["x.png"],
    ("search", "--data"): ["x.png", "--params", str(ROOT / "tests/tiny.yaml")],
    ("verify-cache", "--data"): [],
    ("stage", "--params"): ["shard"],
    ("stage", "--data"): ["shard", "--params", str(ROOT / "tests/tiny.yaml")],
    ("init", "photos"): [],
    ("init", "--list"): ["photos"],
    ("preset", "--photos"): ["birds"],
    ("preset", "--weights"): ["birds"],
}
# The benchmarks only read these, or keep scratch copies of their own beneath.
READ_BY_BENCHMARKS = {
    *((f"benchmarks/{name}.py", "--data") for name in ("backoff", "distill", "epoch", "int8", "prune", "warmup")),
    *((f"benchmarks/{name}.py", "--params") for name in ("distill", "epoch", "int8", "prune", "warmup", "web")),
    *((f"benchmarks/{name}.py", "--samples") for name in ("ensembles", "honest", "list", "real", "warmup")),
    *(("benchmarks/honest.py", "--kept"), ("benchmarks/honest_prior.py", "--data")),
    ("benchmarks/taxonomy.py", "--duckdb"),
    *(("benchmarks/int8.py", option) for option in ("--students", "--samples")),
    *(("benchmarks/data.py", option) for option in ("--photographs", "--img2dataset")),
}


class Parsed(Exception):
    """Carries a parser out of a command."""


def run(command: str, arguments: list[str]) -> tuple[int, str]:
    """Exit status and what was said on standard error; an exception other than SystemExit fails the test."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", [command, *arguments])
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # one takes functions from another
        try:
            if command == "stage":
                status = cli.main()
            elif command.startswith("benchmarks/"):
                runpy.run_path(str(ROOT / command), run_name="__main__")
                status = 0
            else:
                name = command.replace("-", "_")
                status = importlib.import_module(f"bioclip_lite.commands.{name}").main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, said.getvalue()


def given(option: str, path: Path) -> list[str]:
    """An option, or an argument without a name, on the command line."""
    return [option, str(path)] if option.startswith("-") else [str(path)]


def path_options(command: str) -> set[tuple[str, str]]:
    def give(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", give)
        with pytest.raises(Parsed) as found:
            run(command, [])
    actions = found.value.args[0]._actions
    return {(command, (action.option_strings or [action.dest])[-1]) for action in actions if action.type is Path}


@pytest.mark.parametrize("command", [*COMMANDS, "stage", *BENCHMARKS])
def test_every_path_option_has_a_case(command: str) -> None:
    known = {*FILES, *FOLDERS, *ROWS, *READ, *READ_BY_BENCHMARKS}
    assert path_options(command) == {case for case in known if case[0] == command}


def content(folder: Path) -> dict[str, str | bytes | None]:
    """All below a folder: the target of a link, the bytes of a file, None for a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def lost(before: dict[str, str | bytes | None], folder: Path) -> dict[str, str | bytes | None]:
    after = content(folder)
    return {name: what for name, what in before.items() if name not in after or after[name] != what}


# ---- situations


def file(folder: Path) -> Path:
    (folder / "thesis.txt").write_text("precious\n")
    return folder / "thesis.txt"


def full(folder: Path) -> Path:
    (folder / "mine" / "sub").mkdir(parents=True)
    for name in ("thesis.txt", "open_clip_model.safetensors", "sub/index.csv"):
        (folder / "mine" / name).write_text("precious")
    return folder / "mine"


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def link_to(situation: Situation) -> Situation:
    def link(folder: Path) -> Path:
        (folder / "link").symlink_to(situation(folder))
        return folder / "link"

    return link


def dangling(folder: Path) -> Path:
    (folder / "link").symlink_to("nothing")
    return folder / "link"


def in_a_file(folder: Path) -> Path:
    return file(folder) / "new"


def in_a_dangling_link(folder: Path) -> Path:
    return dangling(folder) / "new"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def in_a_new_folder(folder: Path) -> Path:
    return folder / "new" / "folder" / "new"


REFUSED_ALWAYS = {
    "a file": file,
    "a folder with files": full,
    "a link to a file": link_to(file),
    "a link to a folder": link_to(full),
    "a dangling link": dangling,
    "a place in a file": in_a_file,
    "a place in a dangling link": in_a_dangling_link,
    "a pipe": pipe,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refused(command: str, arguments: list[str], path: Path, here: Path) -> None:
    before = content(here)
    status, said = run(command, arguments)
    assert status == 1, said
    assert said.count("\n") == 1 and str(path) in said, said
    assert not lost(before, here)
    assert content(here) == before


# ---- options that write


@pytest.mark.parametrize("situation", [*REFUSED_ALWAYS, "an empty folder"])
@pytest.mark.parametrize(("command", "option"), FILES)
def test_a_file_is_written_over_nothing_else(command: str, option: str, situation: str, here: Path) -> None:
    path = {**REFUSED_ALWAYS, "an empty folder": empty}[situation](here)
    refused(command, [*FILES[command, option][0], *given(option, path)], path, here)


@pytest.mark.parametrize("situation", REFUSED_ALWAYS)
@pytest.mark.parametrize(("command", "option"), FOLDERS)
def test_a_folder_is_written_over_nothing_else(command: str, option: str, situation: str, here: Path) -> None:
    path = REFUSED_ALWAYS[situation](here)
    refused(command, [*FOLDERS[command, option], *given(option, path)], path, here)


@pytest.mark.parametrize("situation", [*REFUSED_ALWAYS, "an empty folder"])
@pytest.mark.parametrize(("command", "option"), sorted(ROWS))
def test_rows_are_added_to_rows_only(command: str, option: str, situation: str, here: Path) -> None:
    if situation == "a dangling link":
        pytest.skip("lines are added through a link")
    path = {**REFUSED_ALWAYS, "an empty folder": empty}[situation](here)
    others = {"--params": ROOT / "params.yaml", "--out": here / "new.md"}
    named = {name: str(other) for name, other in others.items() if (command, name) in {*FILES, *READ_BY_BENCHMARKS}}
    arguments = ["space.yaml"] * (command == "search") + [option, str(path), *itertools.chain(*named.items())]
    refused(command, arguments, path, here)


@pytest.mark.parametrize(("command", "option"), [case for case, (_, line) in FILES.items() if line])
def test_an_earlier_output_is_no_obstacle(command: str, option: str, here: Path) -> None:
    more, line = FILES[command, option]
    earlier, blank = here / "earlier", here / "blank"
    earlier.write_text(f"{line}\nmore\n")
    blank.touch()
    (here / "link").symlink_to(earlier)
    before = content(here)
    for path in (earlier, blank, here / "link", in_a_new_folder(here)):
        status, said = run(command, [*more, option, str(path)])
        assert status == 1 and str(path) not in said, said  # it goes on, to find that there is no data
    assert content(here) == before


def test_an_earlier_captioner_is_no_obstacle(here: Path) -> None:
    (here / "earlier").mkdir()
    for name in fine_tuning.FILES:
        (here / "earlier" / name).write_text("{}")
    (here / "link").symlink_to("earlier")
    for path in (here / "earlier", here / "link", empty(here), in_a_new_folder(here)):
        status, said = run("captioner", ["--out", str(path)])
        assert status == 1 and str(path) not in said, said
    (here / "earlier" / "thesis.txt").write_text("precious")
    refused("captioner", ["--out", str(here / "earlier")], here / "earlier", here)


def test_finished_rows_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    assert finished_rows(None) == finished_rows(path) == []
    path.write_text('{"seed": 0}\n{"seed": 1}\n')
    assert finished_rows(path) == [{"seed": 0}, {"seed": 1}]
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="JSON object per line"):
        finished_rows(path)


# ---- options that read, and the data folder


@pytest.fixture
def repository(here: Path) -> Path:
    (here / "workflow/presets").mkdir(parents=True)
    (here / "workflow/presets/birds.yaml").write_text("index: birds\n")
    (here / "params.yaml").write_text("index: mine\n")
    (here / "x.png").write_bytes((PACKAGE / "demo/public/icon-192.png").read_bytes())
    sh("git init -q && git add -A && git commit -qm start", here)
    return here


@pytest.mark.parametrize("situation", [*REFUSED_ALWAYS, "a new folder"])
@pytest.mark.parametrize(("command", "option"), READ)
def test_what_is_read_stays(command: str, option: str, situation: str, repository: Path) -> None:
    path = {**REFUSED_ALWAYS, "a new folder": in_a_new_folder}[situation](repository)
    if path.name == "pipe" and option == "--params":
        pytest.skip("a pipe may hold parameters")
    before = content(repository)
    status, said = run(command, [*READ[command, option], *given(option, path)])
    if status == 0:  # folders of photographs, and files of weights, are what a preset asks for
        assert command == "preset" and Path("params.yaml").read_text() == "index: birds\n"
        del before["params.yaml"]
    else:
        assert status == 1 and said.count("\n") == 1, said
    assert not lost(before, repository)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_leaves_what_lies_in_its_data_folder(stage: str, here: Path) -> None:
    data = full(here)
    for name in STAGES:
        (data / name).mkdir()
        (data / name / "photos.tar").write_text("precious")
    (here / "logs").write_text("precious")
    before = content(here)
    status, said = run("stage", [stage, "--params", str(ROOT / "tests/tiny.yaml"), "--data", str(data)])
    assert status == (stage != "index"), said
    assert not lost(before, here)


def test_folders_that_stages_write_do_not_replace_others(here: Path) -> None:
    from bioclip_lite.models.students import build_student, save_student

    folder = here / "data" / "distill" / "model"
    folder.mkdir(parents=True)
    (folder / "student.json").write_text("{}")
    (folder / "notes.txt").write_text("precious")
    spec = {"architecture": "mobilenetv4_conv_small_035", "outputs": 4, "reparameterized": False, "options": {}}
    before = content(here)
    with pytest.raises(UserError, match=r"notes\.txt"):
        save_student(folder, build_student(spec), spec, {})
    assert content(here) == before


def test_tars_that_no_manifest_lists_stay(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("train-00000", "train-00001"):
        write_shard(data, name)
    for other in ("photos.tar", "train-00007.tar"):
        (data / "shard" / other).write_text("precious")
    shard._write_sizes(data, {"train": 1})
    assert read_json(data / "shard" / "sizes.json") == {"train-00000.tar": 0}
    assert sorted(path.name for path in (data / "shard").glob("*.tar")) == [
        "photos.tar",
        "train-00000.tar",
        "train-00007.tar",
    ]


def write_shard(data: Path, name: str) -> None:
    import pyarrow as pa

    from bioclip_lite.utils.files import write_table

    write_table(shard.manifest(data, name), pa.table({"key": pa.array([], pa.string())}))
    shards.write_shard(data / "shard" / f"{name}.tar", [])


# ---- make preset, make init

PRESET = ("preset", "NAME=birds")


@pytest.fixture
def maker(repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`make preset` in a repository whose environment counts as made."""
    shutil.copy(ROOT / "Makefile", repository)
    for name in ("workflow/envs/main.txt", "workflow/envs/dev.txt", "pyproject.toml"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).touch()
    (repository / ".venv").mkdir()
    (repository / ".venv" / f"ready-{hashlib.sha256(b'').hexdigest()[:12]}").touch()
    (repository / "data/weights").mkdir(parents=True)
    (repository / "tower.safetensors").write_bytes(b"weights")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = ENVIRONMENT | {"PATH": path, "PYTHONPATH": str(ROOT / "workflow")}

    def make(*arguments: str, command: tuple[str, ...] = PRESET) -> subprocess.CompletedProcess[str]:
        command = ("make", "--silent", *command, *arguments)
        return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)

    return make


@pytest.mark.parametrize("name", ["photos", "my photos", "O'Brien's  \"best\" photos", "-trip; ls", "Fotos (1) & ñ"])
def test_photographs_may_lie_in_any_folder(maker: Callable, repository: Path, name: str) -> None:
    (repository / name).mkdir()
    done = maker(f"PHOTOS={name}", "WEIGHTS=tower.safetensors")
    assert done.returncode == 0, done.stderr
    assert (repository / "data/photos").resolve() == repository / name
    assert (repository / "data/weights/tower.safetensors").read_bytes() == b"weights"
    assert (repository / "params.yaml").read_text() == "index: birds\n"


@pytest.mark.parametrize("name", ["my photos", "O'Brien's  \"best\" photos", "-trip; ls"])
def test_init_is_given_any_folder(maker: Callable, repository: Path, name: str) -> None:
    (repository / name).mkdir()
    (repository / name / "a.jpg").write_bytes(b"a")
    before = content(repository)
    for photos in (f"PHOTOS={name}", "PHOTOS="):
        done = maker(photos, "HOURS=0.5", command=("init",))
        says = "PHOTOS: is missing" if photos == "PHOTOS=" else f"init: {name} holds 1 photographs, but nothing says"
        assert done.returncode == 2 and says in done.stderr, done.stderr
    assert not lost(before, repository)


def test_weights_and_photographs_may_be_in_place_already(maker: Callable, repository: Path) -> None:
    for folder in ("data/photos", "album"):
        (repository / folder).mkdir()
        (repository / folder / "a.jpg").write_bytes(b"a")
    shutil.copy(repository / "tower.safetensors", repository / "data/weights")
    before = content(repository / "data")
    for weights in ("data/weights/tower.safetensors", "tower.safetensors"):
        done = maker("PHOTOS=data/photos", f"WEIGHTS={weights}")
        assert done.returncode == 0, done.stderr
    assert content(repository / "data") == before


def test_a_preset_replaces_nothing_that_is_held_nowhere_else(repository: Path) -> None:
    for folder in ("data/photos", "data/weights", "album"):
        (repository / folder).mkdir(parents=True)
    (repository / "data/weights/tower.safetensors").write_bytes(b"others")
    (repository / "tower.safetensors").write_bytes(b"weights")
    before = content(repository)
    for options, message in (
        (["--photos", "album"], "data/photos is no link, and what it holds would be lost"),
        (["--weights", "tower.safetensors"], "differs from tower.safetensors and would be lost"),
    ):
        status, said = run("preset", ["birds", *options])
        assert status == 1 and message in said
        assert content(repository) == before
    shutil.rmtree(repository / ".git")
    status, said = run("preset", ["birds"])
    assert status == 1 and "params.yaml has changes that are not committed and would be lost" in said
    assert Path("params.yaml").read_text() == "index: mine\n"


# ---- the programs of the package


def node(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["node", str(PACKAGE / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_json(tmp_path / "bundle" / "bundle.json", {"files": {"model-01234567.json": {}, "weights-01234567.bin": {}}})
    for name in ("model-01234567.json", "weights-01234567.bin"):
        (tmp_path / "bundle" / name).write_text("model")
    return tmp_path / "bundle"


def cannot(done: subprocess.CompletedProcess[str], before: dict[str, str | bytes | None], here: Path) -> None:
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert content(here) == before


def test_native_leaves_the_code_of_an_application(bundle: Path, here: Path) -> None:
    (here / "app").mkdir()
    (here / "app" / "index.js").write_text("precious")
    before = content(here)
    cannot(node("bin/native.mjs", bundle, here / "app"), before, here)
    cannot(node("bin/native.mjs", bundle, here / "app" / "index.js"), before, here)
    (here / "assets").mkdir()
    (here / "assets" / "icon.png").write_text("precious")
    before = content(here)
    for _ in range(2):
        done = node("bin/native.mjs", bundle, here / "assets")
        assert done.returncode == 0, done.stderr
    assert not lost(before, here)
    assert (here / "assets" / "model-01234567.json.bin").read_text() == "model"


@pytest.mark.parametrize("name", ["site", "single", "bioclip-lite.html"])
def test_the_demo_leaves_what_is_not_its_own(bundle: Path, here: Path, name: str) -> None:
    """Folders of these names were emptied, and ``single`` removed, before."""
    (here / name).mkdir()
    (here / name / "index.html").write_text("precious")
    before = content(here)
    done = node("demo/make.mjs", bundle, here)
    if name == "single":
        assert done.returncode == 0, done.stderr
        assert (here / "bioclip-lite.html").exists() and (here / "site" / "sw.js").exists()
        assert node("demo/make.mjs", bundle, here).returncode == 0  # over an earlier one
        (here / "site" / "CNAME").write_text("precious")
        before |= content(here)
        cannot(node("demo/make.mjs", bundle, here), before, here)
        (here / "site" / "CNAME").unlink()
        del before["site/CNAME"]
        cannot(node("demo/make.mjs", here / "site" / "model", here), before, here)
    else:
        cannot(done, before, here)


def test_the_demo_leaves_a_page_and_a_file(bundle: Path, here: Path) -> None:
    (here / "bioclip-lite.html").write_text("precious")
    cannot(node("demo/make.mjs", bundle, here), content(here), here)
    cannot(node("demo/make.mjs", bundle, here / "bioclip-lite.html"), content(here), here)


@pytest.mark.parametrize("program", ["classify.mjs", "browser.mjs"])
def test_raw_results_replace_raw_results_only(bundle: Path, here: Path, program: str) -> None:
    (here / "x.json").write_text('{"precious": 1}')
    (here / "y.logits.f32").mkdir()
    before = content(here)
    for prefix in ("x", "y", "x.json/z"):
        done = node(f"bin/{program}", bundle, here / "a.png", "--raw", here / prefix)
        cannot(done, before, here)
        assert str(here / prefix) in done.stderr or prefix == "x.json/z"


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """Commands of training, and benchmarks, settle threads and determinism for their process."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    environment = dict(os.environ)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    os.environ.clear()
    os.environ.update(environment)
