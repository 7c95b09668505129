"""Treat code as an input: list the files that a module needs, and hash what they mean."""

import ast
import hashlib
import io
import json
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
RENDERED = (".j2", ".css", ".js")  # suffixes of the files beside a module that it renders (utils.pages)
# An import from this package, on a line of its own or with the names in brackets; and a line that might have one.
_USUAL = re.compile(rf"^[ \t]*from {PACKAGE.name}[\w.]* import (?:[\w, ]+|\([^()]*\))[ \t]*(?:#.*)?$", re.MULTILINE)
# Imports for annotations, which never run.
_FOR_TYPES = re.compile(r"^if TYPE_CHECKING:.*\n(?:[ \t]+.*\n|\n)*", re.MULTILINE)
_PERHAPS = re.compile(rf"\b(?:from|import)\b.*(?:\b{PACKAGE.name}\b|\\$)")


def closure(*modules: str, package: Path = PACKAGE) -> list[str]:
    """List the files of a package that ``modules`` (e.g. "stages.prune") import, directly or not, and their own.

    Imports inside functions count. The templates, style sheets and scripts that bear a module's name come with it. The
    command line and the parameter check are in no stage's closure: they hand over parameters and add nothing to an
    output.

    Args:
        package: folder of the package in its checkout, <root>/workflow/bioclip_lite.

    Returns:
        Sorted paths, relative to <root>.

    Raises:
        ValueError: a name in ``modules`` is no module, so a job would depend on no code.
    """
    if missing := [module for module in modules if _file(package, module) is None]:
        raise ValueError(f"{package} has no module {', '.join(missing)}; is a name misspelt?")
    files: set[Path] = set()
    todo = [_file(package, module) for module in modules]
    while todo:
        path = todo.pop()
        if path is not None and path not in files:
            files.add(path)
            todo += [_file(package, module) for module in _imports(path)]
    root = package.parents[1]
    return sorted(path.relative_to(root).as_posix() for path in (*files, *_rendered(files)))


def _rendered(modules: set[Path]) -> Iterator[Path]:
    """The files that modules render: report/speed.html.j2 and report/speed.css belong to report/speed.py."""
    owners = {(module.parent, module.stem) for module in modules}
    for folder in {module.parent for module in modules}:
        for file in folder.iterdir():
            if file.suffix in RENDERED and (folder, file.name.partition(".")[0]) in owners:
                yield file


def file_meaning(path: Path) -> str:
    """MD5 of a file that ``closure`` lists: of Python its ``meaning``, of what a module renders its bytes."""
    content = path.read_bytes()
    return hashlib.md5(content).hexdigest() if path.suffix in RENDERED else meaning(content)


def meaning(source: bytes) -> str:
    """MD5 of Python code without its comments, docstrings and layout.

    Rule files of Snakemake are hashed without their comments, and anything else by its bytes.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return _meaning_of_tokens(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _documented(node):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.md5(ast.dump(tree).encode()).hexdigest()


def _meaning_of_tokens(source: bytes) -> str:
    try:
        tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return hashlib.md5(source).hexdigest()
    words = [token.string for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL)]
    return hashlib.md5(json.dumps(words).encode()).hexdigest()


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


@cache
def _file(package: Path, module: str) -> Path | None:
    """The file of a module, named from the package down; None for a name that is no module (a function, say)."""
    path = package.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists() and candidate != package / "__init__.py":
            return candidate
    return None


def _imports(path: Path) -> list[str]:
    """Modules of the package that a file imports, and names that it imports from them, without the package's name."""
    status = path.stat()
    return _imports_of(path, (status.st_mtime_ns, status.st_size, status.st_ino))


@cache
def _imports_of(path: Path, version: tuple[int, int, int]) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(_import_statements(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from a import b`: b may be a module of a; a package's __init__ runs as well
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    prefix = PACKAGE.name + "."
    inner = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return sorted(inner | {name.rpartition(".")[0] for name in inner if "." in name})


def _import_statements(text: str) -> str:
    """The imports from this package alone, or the whole text if some are written in an unusual way.

    Every start of Snakemake waits for this; to parse whole files takes more than ten times as long.
    """
    text = _FOR_TYPES.sub("", text)
    statements = _USUAL.findall(text)
    usual = len(statements) == sum(1 for line in text.splitlines() if _PERHAPS.search(line))
    return "\n".join(statement.strip() for statement in statements) if usual else text
