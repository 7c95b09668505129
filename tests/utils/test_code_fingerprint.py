"""Which code a job depends on, and when an edit matters."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.engines.stage_code import code
from bioclip_lite.utils import code_fingerprint as module
from bioclip_lite.utils.code_fingerprint import closure, file_meaning, meaning
from bioclip_lite.utils.stage_names import STAGES
from support.checkout import ROOT


def test_the_closure_follows_imports_down_and_inside_functions() -> None:
    files = closure("stages.shard")
    assert "workflow/bioclip_lite/stages/shard.py" in files
    assert "workflow/bioclip_lite/utils/files.py" in files
    assert "workflow/bioclip_lite/utils/errors.py" in files  # through files.py
    assert files == sorted(set(files))


def test_a_misspelt_module_is_an_error_and_not_a_job_without_code() -> None:
    with pytest.raises(ValueError, match=r"no module stages\.prunee"):
        closure("stages.prune", "stages.prunee")


def test_a_module_brings_the_templates_that_bear_its_name() -> None:
    files = closure("report.speed")
    assert {f"workflow/bioclip_lite/report/{name}" for name in ("speed.html.j2", "elements.html.j2")} < set(files)
    assert {"workflow/bioclip_lite/utils/pages.html.j2", "workflow/bioclip_lite/utils/pages.css"} < set(files)
    assert "workflow/bioclip_lite/report/suites.html.j2" not in files
    assert not [file for file in closure("stages.prune") if not file.endswith(".py")]


def test_an_edit_of_the_report_runs_no_prediction_again() -> None:
    rooms = ("workflow/bioclip_lite/report/", "workflow/bioclip_lite/metrics/summary.py")
    assert not [file for file in closure("stages.evaluate") if file.startswith(rooms)]
    assert {"workflow/bioclip_lite/report/page.css", rooms[1]} < set(closure("report.publish"))
    assert set(code("evaluate", "report")) == {*closure("stages.evaluate"), *closure("report.publish")}


def test_jobs_depend_on_every_template_that_theirs_refer_to() -> None:
    """A template includes, imports and extends only templates of modules that its own module imports."""
    root = module.PACKAGE.parents[1]
    for path in module.PACKAGE.rglob("*.j2"):
        owner = path.relative_to(module.PACKAGE).parent / path.name.partition(".")[0]
        files = closure(owner.as_posix().replace("/", "."))
        assert path.relative_to(root).as_posix() in files
        names = re.findall(r'{%-? *(?:include|extends|from|import) "([^"]+)"', path.read_text())
        assert {f"workflow/bioclip_lite/{name}" for name in names} <= set(files), path


def test_an_edit_of_a_template_is_an_edit_of_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also one that Python would take for a comment: the colour of a style sheet."""
    monkeypatch.chdir(tmp_path)
    for name, before, after in (
        ("page.css", "a { color: #fff; }", "a { color: #000; }"),
        ("page.html.j2", "<p>", "<b>"),
    ):
        Path(name).write_text(before)
        first = Hashes(ask_dvc=False)[name], file_meaning(Path(name))
        Path(name).write_text(f"{after}\n")
        second = Hashes(ask_dvc=False)[name], file_meaning(Path(name))
        assert not set(first) & set(second)


def test_templates_are_installed_with_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["bioclip_lite"]
    beside = [path for path in module.PACKAGE.rglob("*") if path.suffix in {*module.RENDERED, ".json"}]
    assert beside and {path for pattern in data for path in module.PACKAGE.glob(pattern)} == set(beside)


def test_a_checkout_has_the_same_bytes_whatever_git_makes_of_line_ends(tmp_path: Path) -> None:
    attributes = (ROOT / ".gitattributes").read_text()
    for name, text in {".gitattributes": attributes, "a.py": "x = 1\n", "Snakefile": "rule:\n"}.items():
        (tmp_path / name).write_text(text)
    commands = "git init -q . && git add . && rm a.py Snakefile && git -c core.autocrlf=true checkout -q -- ."
    subprocess.run(commands, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "a.py").read_bytes() == b"x = 1\n"
    assert (tmp_path / "Snakefile").read_bytes() == b"rule:\n"


def test_no_stage_imports_another_or_the_engines() -> None:
    from bioclip_lite.utils.stage_names import STAGES

    for stage in STAGES:
        files = closure(f"stages.{stage}")
        others = [f"workflow/bioclip_lite/stages/{other}.py" for other in STAGES if other != stage]
        assert not set(files) & {*others, "workflow/bioclip_lite/engines/sync.py", "workflow/bioclip_lite/__main__.py"}
        assert not [file for file in files if Path(file).parent.name in ("engines", "commands")]


@pytest.mark.parametrize(
    "line",
    [
        "from bioclip_lite import files",
        "    from bioclip_lite import files  # late",
        "from bioclip_lite import (\n    errors,\n    files,\n)",
        "from bioclip_lite import (\n    errors,  # (why)\n    files,\n)",
        "from bioclip_lite import errors; from bioclip_lite import files",
        "if True: from bioclip_lite import files",
        "from bioclip_lite \\\n    import files",
        "from \\\n    bioclip_lite import files",
        "from bioclip_lite import \\\n    files",
        "import bioclip_lite.files as f",
        "import os, bioclip_lite.files",
        "import os, \\\n    bioclip_lite.files",
        "from bioclip_lite.files import *",
    ],
)
def test_an_import_is_seen_however_it_is_written(line: str, tmp_path: Path) -> None:
    package = tmp_path / "workflow" / "bioclip_lite"
    package.mkdir(parents=True)
    for name in ("errors", "files", "other"):
        (package / f"{name}.py").write_text("")
    inside = f"def f():\n{line}\n" if line.startswith("    ") else f"{line}\n"
    (package / "user.py").write_text(f"import os\nfrom bioclip_lite import other\n{inside}x = os\n")
    files = closure("user", package=package)
    assert {"workflow/bioclip_lite/files.py", "workflow/bioclip_lite/other.py"} < set(files)


def test_the_quick_look_at_imports_sees_what_python_sees() -> None:
    for path in module.PACKAGE.rglob("*.py"):
        source = path.read_text()
        assert imports_in(module._import_statements(source)) == imports_in(source), path


def test_what_only_annotations_need_is_no_code_of_a_job() -> None:
    assert not {"workflow/bioclip_lite/utils/sections.py", "workflow/bioclip_lite/params/jobs.py"} & {
        file for stage in STAGES for file in closure(f"stages.{stage}")
    }


def imports_in(source: str) -> set[str]:
    """Imports from the package, those for annotations left out."""
    tree = ast.parse(source)
    for block in [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]:
        tree.body.remove(block)
    return {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and "bioclip_lite" in ast.unparse(node)
    }


def test_comments_docstrings_and_layout_mean_nothing() -> None:
    plain = b"def f(x):\n    return x + 1\n"
    rewritten = b'"""Module."""\n\n\ndef f(x):  # adds\n    """Doc."""\n    return (x +\n            1)\n'
    assert meaning(plain) == meaning(rewritten)
    assert meaning(plain) != meaning(b"def f(x):\n    return x + 2\n")
    assert meaning(b"def f(): 'only a docstring'") == meaning(b"def f(): pass")
    assert meaning(b"not python (") != meaning(b"not python [")
