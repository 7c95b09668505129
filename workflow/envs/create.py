"""Create one environment from its lock files: create.py main | convert | node_packages (`make setup`) | docs.

Needs Python with venv and pip, and npm. uv, from the same registry, installs the Python packages; pip does where uv
cannot.
"""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
ENVS = Path("workflow/envs")
NODE = Path("packages/react-bio-clip")
LOGS = Path("logs/environments")
# pip's settings of where and how to fetch packages, and the variables by which uv takes the same.
SETTINGS = {
    "cert": "SSL_CERT_FILE",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "no-index": "UV_OFFLINE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "trusted-host": "UV_INSECURE_HOST",
}


def main(name: str) -> None:
    """Create an environment; its log gets what the commands print, the terminal one line before and one after."""
    os.chdir(ROOT)
    folder, download = {
        "main": (Path(".venv"), "3.3 GB, most of it torch with its CUDA libraries"),
        "convert": (Path(".venv-convert"), "0.9 GB, most of it TensorFlow"),
        "node_packages": (NODE / "node_modules", "0.1 GB"),
        "docs": (Path(".venv-docs"), "0.02 GB"),
    }[name]
    path = LOGS / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{folder}: installing; downloads {download}, less what is cached (log: {path})", flush=True)
    started = time.monotonic()
    with path.open("w") as log:
        try:
            if name == "main":
                python_environment(folder, [ENVS / "main.txt", ENVS / "dev.txt"], log)
                # The locked setuptools builds the package of this checkout: nothing more is downloaded.
                run([*pip(folder), "--no-deps", "--no-build-isolation", "--editable", "."], log)
            elif name in ("convert", "docs"):
                python_environment(folder, [ENVS / f"{name}.txt"], log)
            else:
                node_packages(folder, log)
        except (OSError, subprocess.CalledProcessError) as error:
            end = path.read_text(errors="replace").splitlines()[-15:]
            sys.exit("\n    ".join([f"{folder}: not installed: {reason(error)}. The end of {path}:", *end]))
    print(f"{folder}: installed in {time.monotonic() - started:.0f} s", flush=True)


def python_environment(folder: Path, locks: list[Path], log: TextIO) -> None:
    """A virtual environment with exactly the files that the lock files name by their hashes.

    They are compiled as well: where Python may not write beside them, each process would compile what it imports.
    """
    remove(folder)
    run([sys.executable, "-m", "venv", str(folder)], log)
    packages = ["--require-hashes", "--no-deps", *(f"--requirement={lock}" for lock in locks)]
    try:
        run([*pip(folder), "--require-hashes", f"--requirement={ENVS / 'uv.txt'}"], log)
        uv = [f"{folder}/bin/uv", "pip", "install", f"--python={folder}", "--no-progress", "--compile-bytecode"]
        constraints = [f"--build-constraints={lock}" for lock in locks]  # for what builds packages without a wheel
        run([*uv, *packages, *constraints], log, **uv_settings(pip_config(folder)))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{folder}: uv failed ({reason(error)}), so pip installs, which takes longer", flush=True)
        run([*pip(folder), *packages], log)


def node_packages(folder: Path, log: TextIO) -> None:
    """npm's packages. A link to those of another checkout is replaced: npm would empty the other one."""
    if folder.is_symlink():
        folder.unlink()
    run(["npm", "ci", f"--prefix={folder.parent}", "--no-audit", "--no-fund"], log)


def pip(folder: Path) -> list[str]:
    return [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def pip_config(folder: Path) -> str:
    """pip's settings from all its files and variables, as `pip config list` prints them."""
    command = [f"{folder}/bin/python", "-m", "pip", "config", "list"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def uv_settings(listed: str) -> dict[str, str]:
    """Environment variables that make uv, which reads none of pip's configuration, fetch from where pip does.

    uv's own variables, where they are set, come first. Which index has a version does not matter, as for pip: the
    hash in the lock file says which file is meant.
    """
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for section in ("global", "install", ":env:"):  # the last one counts
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}.") and (key := name.removeprefix(f"{section}.")) in SETTINGS:
                separator = "," if key == "find-links" else " "
                found[SETTINGS[key]] = separator.join(str(ast.literal_eval(value)).split())
    return {variable: os.environ.get(variable, value) for variable, value in found.items()}


def run(command: list[str], log: TextIO, **settings: str) -> None:
    print("$", *command, file=log, flush=True)
    environment = {**os.environ, **settings}
    subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def reason(error: Exception) -> str:
    """A failed command in a few words."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"{Path(error.cmd[0]).name} ended with exit status {error.returncode}"
    return str(error)


if __name__ == "__main__":
    main(sys.argv[1])
