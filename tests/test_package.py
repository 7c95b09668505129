"""The npm package: its own tests, what is published, what is locked, and that what runs was built from the sources."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "packages" / "react-bio-clip"


def run(*command: str, folder: Path = PACKAGE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built() -> Path:
    """The package with everything compiled, which includes the check of all types."""
    done = run("npm", "run", "build")
    assert done.returncode == 0, done.stdout + done.stderr
    return PACKAGE


def test_the_packages_own_tests_pass(built: Path) -> None:
    done = run("npm", "test")
    assert done.returncode == 0, done.stdout[-5000:]


def test_what_is_published(built: Path) -> None:
    done = run("npm", "pack", "--dry-run", "--json", "--ignore-scripts")
    assert done.returncode == 0, done.stderr
    (pack,) = json.loads(done.stdout)
    files = {entry["path"] for entry in pack["files"]}
    about = json.loads((built / "package.json").read_text())
    promised = [path for entry in about["exports"].values() if isinstance(entry, dict) for path in entry.values()]
    promised += [*about["bin"].values(), about["main"], about["types"], about["jsdelivr"], about["unpkg"]]
    assert {path.removeprefix("./") for path in promised} <= files
    texts = {"README.md", "CHANGELOG.md", "LICENSE", "package.json"}
    assert {path.split("/")[0] for path in files} == texts | {"dist", "bin", "native"}
    assert not [path for path in files if path.endswith((".tsx", "package-lock.json")) or "node_modules" in path]
    assert not files & {"bin/browser.mjs", "bin/chromium.mjs", "bin/page.mjs"}  # they need what is installed here only
    assert not [path for path in files if "ready-" in path or path.endswith(".tsbuildinfo")]
    assert pack["size"] < 400_000
    done = run("npm", "publish", "--dry-run", "--ignore-scripts", "--tag", "next")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("npm warn")]
    assert [line for line in warnings if "requires you to be logged in" not in line] == []


def test_applications_that_install_the_packed_package_answer(built: Path) -> None:
    """The cheap part of `npm run matrix`; needs npm's registry, as `make setup` does."""
    done = run("node", "../matrix/run.mjs", "node", "html")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ")[:2] for line in done.stdout.splitlines()]
    assert rows[2:] == [["| node", "yes"], ["| html", "yes"]]
    unknown = run("node", "../matrix/run.mjs", "cobol")
    assert unknown.returncode == 2 and "no application cobol" in unknown.stderr


def test_importing_the_package_brings_no_backend_along(built: Path) -> None:
    """Tree-shaking and side effects: whoever takes one function gets that function."""
    script = """
        import {build} from 'esbuild';
        const stdin = {contents: "export {scientificName} from 'react-bio-clip';", resolveDir: process.cwd()};
        const external = ['@tensorflow/*', '@noble/*'];
        const done = await build({stdin, bundle: true, format: 'esm', write: false, external});
        console.log(done.outputFiles[0].text);
    """
    done = run("node", "--input-type=module", "-e", script)
    assert done.returncode == 0, done.stderr
    assert "function scientificName" in done.stdout
    assert "answerOf" not in done.stdout and "openBundle" not in done.stdout
    assert len(done.stdout) < 2000


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((PACKAGE / "package-lock.json").read_text())
    wanted = json.loads((PACKAGE / "package.json").read_text())
    for name, entry in lock["packages"].items():
        assert "resolved" not in entry and "http" not in json.dumps(entry), name
    for name, version in {**wanted["dependencies"], **wanted["devDependencies"]}.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package with its compiled files; what is installed is shared."""
    folder = tmp_path / "packages" / "react-bio-clip"
    done = run("npm", "run", "build:core")
    assert done.returncode == 0, done.stdout + done.stderr
    kept = shutil.ignore_patterns("node_modules", "demo", "e2e", "react", "native")
    shutil.copytree(PACKAGE, folder, ignore=kept)
    (folder / "node_modules").symlink_to(PACKAGE / "node_modules")
    return folder


def test_programs_refuse_what_was_compiled_from_other_sources(copy: Path) -> None:
    usage = run("node", "bin/classify.mjs", folder=copy)
    assert usage.returncode == 1 and usage.stderr.startswith("usage: classify.mjs BUNDLE")
    with (copy / "src" / "core" / "tree.ts").open("a") as file:
        file.write("// changed\n")
    for program in ("classify", "weights", "browser"):
        stale = run("node", f"bin/{program}.mjs", folder=copy)
        assert stale.returncode == 1
        assert "dist is missing or older than src: run `make setup`" in stale.stderr and "    at " not in stale.stderr
    rebuilt = run("npm", "run", "build:core", folder=copy)
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert run("node", "bin/classify.mjs", folder=copy).stderr.startswith("usage: classify.mjs BUNDLE")
    assert len(list((copy / "dist" / "core").glob("ready-*"))) == 1


def test_building_leaves_a_linked_dist_alone(copy: Path, tmp_path: Path) -> None:
    (copy / "dist").rename(tmp_path / "other")
    (copy / "dist").symlink_to(tmp_path / "other")
    before = sorted(tmp_path.joinpath("other").rglob("*"))
    with (copy / "src" / "core" / "tree.ts").open("a") as file:
        file.write("// changed\n")
    assert run("npm", "run", "build:core", folder=copy).returncode == 0
    assert not (copy / "dist").is_symlink() and sorted(tmp_path.joinpath("other").rglob("*")) == before


def test_the_rule_and_the_programs_agree_on_what_is_built() -> None:
    """rules/environments.smk and bin/built.mjs name the mark by the same hash of the sources."""
    script = "import {mark} from './bin/built.mjs'; console.log(mark('core'))"
    mark = run("node", "--input-type=module", "-e", script).stdout.strip()
    common = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    function = common[common.index("def sources_mark") :].split("\n\n\n")[0]
    rules = (ROOT / "workflow" / "rules" / "environments.smk").read_text().split("rule convert_env")[0]
    names = {"ready": lambda *_: "", "expand": lambda *_, **__: [], "Path": Path}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        exec(f"import hashlib\n{function}\n{rules}", names)
    assert mark == str(ROOT / str(names["NODE_ENV"]))


def test_types_are_found_and_refuse_mistakes(built: Path, tmp_path: Path) -> None:
    """As an application with a bundler sees them, and one in plain Node."""
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "react-bio-clip").symlink_to(built)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "right.ts").write_text(
        "import {loadBioClip, loadInWorker, type Answer, type BioClip} from 'react-bio-clip';\n"
        "import {loadFolder} from 'react-bio-clip/node';\n"
        "import {useBioClip} from 'react-bio-clip/react';\n"
        "const clip: BioClip = await loadBioClip('/models/oaks/', {onProgress: ({loaded, total}) => loaded / total});\n"
        "const found: Answer = await clip.classify(document.querySelector('img')!, {topK: 3, rank: 'genus'});\n"
        "export const name: string | undefined = found.answer?.name;\n"
        "export {loadFolder, loadInWorker, useBioClip};\n"
    )
    (tmp_path / "wrong.ts").write_text(
        "import {loadBioClip} from 'react-bio-clip';\nexport const answer = (await loadBioClip('x')).classify(5);\n"
    )
    for resolution, module in (("bundler", "esnext"), ("nodenext", "nodenext")):
        options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--lib", "es2023,dom"]
        command = ["node", str(built / "node_modules" / "typescript" / "bin" / "tsc"), *options]
        command += ["--module", module, "--moduleResolution", resolution]
        right = run(*command, "right.ts", folder=tmp_path)
        assert right.returncode == 0, right.stdout
        wrong = run(*command, "wrong.ts", folder=tmp_path)
        assert wrong.returncode
        assert "'number' is not assignable to parameter of type 'ImageInput | readonly ImageInput[]'" in wrong.stdout
