"""`make setup`: lock files, marks, and create.py with another configuration of pip, without uv, and failing."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ENVS = ROOT / "workflow" / "envs"
LOCKS = ("convert", "dev", "docs", "main", "uv")


@pytest.fixture
def create(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ENVS))
    import create

    return create


def locked(name: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Requirements of a lock file by package, one for each platform that differs, with their hashes."""
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    text = re.sub(r"^ *#.*\n", "", (ENVS / f"{name}.txt").read_text(), flags=re.M).replace("\\\n", "")
    for line in text.splitlines():
        requirement, *hashes = line.split("--hash=")
        parsed = Requirement(requirement)
        found.setdefault(canonicalize_name(parsed.name), []).append((parsed, [text.strip() for text in hashes]))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_is_locked_to_one_version_and_its_files(name: str) -> None:
    assert not re.search(r"\w://|@ ", (ENVS / f"{name}.txt").read_text())
    packages = locked(name)
    for requirements in packages.values():
        for requirement, hashes in requirements:
            assert [part.operator for part in requirement.specifier] == ["=="], requirement
            assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", text) for text in hashes), requirement
    for line in (ENVS / f"{name}.in").read_text().splitlines():
        if line and not line.startswith("#"):
            direct = Requirement(line)
            versions = [requirement.specifier for requirement, _ in packages[canonicalize_name(direct.name)]]
            assert all(direct.specifier.contains(str(version)[2:]) for version in versions), line


def test_main_and_dev_agree_on_what_both_lock() -> None:
    main, dev = locked("main"), locked("dev")
    for name in main.keys() & dev.keys():
        assert [str(locked.specifier) for locked, _ in main[name]] == [str(locked.specifier) for locked, _ in dev[name]]


def test_make_and_snakemake_name_the_same_marks() -> None:
    """Otherwise Snakemake would make again what `make setup` has made."""
    done = subprocess.run(["make", "-npq", "environments"], cwd=ROOT, capture_output=True, text=True)
    marks = set(re.findall(r"^(?:CONVERT|NODE_PACKAGES) := (.*)$", done.stdout, re.M))
    for folder, lock in (
        (".venv-convert", ENVS / "convert.txt"),
        ("packages/react-bio-clip/node_modules", ROOT / "packages" / "react-bio-clip" / "package-lock.json"),
    ):
        marks.remove(f"{folder}/ready-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}")
    assert not marks


def test_uv_fetches_from_where_pip_does(create: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_CERT", "PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT", "SSL_CERT_FILE", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://user:p%40ss@mirror.example/simple\ncert = /global.pem\n"
        "[install]\ncert = /install.pem\nextra-index-url =\n    https://a.example/simple\n    https://b.example/simple\n"
        "[download]\ntimeout = 7\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels https://c.example/wheels")
    settings = create.uv_settings(create.pip_config(Path(sys.prefix)))
    assert settings == {
        "UV_DEFAULT_INDEX": "https://user:p%40ss@mirror.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": "/wheels,https://c.example/wheels",
        "SSL_CERT_FILE": "/install.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.example/simple")
    assert (
        create.uv_settings("global.index-url='https://x.example'")["UV_DEFAULT_INDEX"] == "https://mine.example/simple"
    )


def wheel(folder: Path) -> str:
    """A wheel of one module, `oak`, and its hash."""
    about = {
        "oak.py": "RINGS = 3\n",
        "oak-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: oak\nVersion: 1.0\n",
        "oak-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},\n"
        for name, text in about.items()
    )
    path = folder / "oak-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**about, "oak-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pip_installs_where_uv_cannot_and_a_false_hash_is_refused(
    create: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an index pip finds the wheel, and no uv."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    lock, folder = tmp_path / "lock.txt", tmp_path / "environment"
    true = wheel(tmp_path)
    lock.write_text(f"oak==1.0 --hash=sha256:{true}\n")
    with (tmp_path / "log").open("w") as log:
        create.python_environment(folder, [lock], log)
    assert capsys.readouterr().out == (
        f"{folder}: uv failed (python ended with exit status 1), so pip installs, which takes longer\n"
    )
    python = folder / "bin" / "python"
    assert subprocess.check_output([python, "-c", "import oak; print(oak.RINGS)"], text=True) == "3\n"
    lock.write_text(f"oak==1.0 --hash=sha256:{'0' * 64}\n")
    with (tmp_path / "log").open("w") as log, pytest.raises(subprocess.CalledProcessError):
        create.python_environment(folder, [lock], log)
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in (tmp_path / "log").read_text()
    assert subprocess.run([python, "-c", "import oak"], capture_output=True).returncode == 1


def test_a_failure_says_which_environment_and_why(
    create: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(create, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    package = tmp_path / create.NODE
    package.mkdir(parents=True)
    oak = {"version": "1.0.0", "integrity": f"sha512-{base64.b64encode(bytes(64)).decode()}"}
    wanted = {"name": "forest", "version": "1.0.0", "dependencies": {"oak": "1.0.0"}}
    lock = {**wanted, "lockfileVersion": 3, "packages": {"": wanted, "node_modules/oak": oak}}
    (package / "package.json").write_text(json.dumps(wanted))
    (package / "package-lock.json").write_text(json.dumps(lock))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(SystemExit) as stopped:
        create.main("node_packages")
    folder, log = f"{create.NODE}/node_modules", "logs/environments/node_packages.log"
    assert str(stopped.value).startswith(f"{folder}: not installed: npm ended with exit status 1. The end of {log}:\n")
    assert "ECONNREFUSED" in str(stopped.value)
    assert capsys.readouterr().out.startswith(f"{folder}: installing; downloads 0.1 GB")
