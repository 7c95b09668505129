"""Who may import whom: the floors of docs/architecture.md, no cycles, and no code in ``__init__``."""

import ast
from pathlib import Path

from support.checkout import ROOT

PACKAGE = ROOT / "workflow" / "bioclip_lite"
# From the ground up. A folder imports from floors below its own and from its own modules.
FLOORS = (
    {"utils"},
    {"engines", "graph", "photographs", "taxa"},
    {"metrics", "models", "sources", "texts"},
    {"compression", "indexing", "teacher_cache"},
    {"training", "web"},
    {"captioning", "evaluation"},
    {"params", "planning", "predicting", "publishing", "report"},
    {"search", "stages", "suites"},
    {"commands", "__main__"},
)
WITH_NAMES = {"params"}  # whose ``__init__`` hands on the names of its modules


def modules() -> dict[str, Path]:
    """Dotted name within the package -> file."""
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    names = [path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports, those that only its annotations need left out."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if "TYPE_CHECKING" in ast.unparse(block.test):
            block.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            base = node.module.removeprefix(PACKAGE.name).removeprefix(".")
            names = [f"{base}.{alias.name}".removeprefix(".") for alias in node.names]
            found |= {name if name in known else base for name in names}
    return found & set(known)


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes that stand in a cycle, or lead from one to another."""
    left = {node: edges - {node} for node, edges in graph.items()}
    while leaves := {node for node, edges in left.items() if not edges & left.keys()}:
        left = {node: edges for node, edges in left.items() if node not in leaves}
    return sorted(left)


def folder(module: str) -> str:
    return module.split(".")[0]


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    assert cycle({name: imports(path, known) for name, path in known.items()}) == []


def test_no_folder_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        graph.setdefault(folder(name), set()).update(folder(other) for other in imports(path, known))
    assert cycle(graph) == []


def test_every_folder_stands_on_the_floors_below_it() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    known = modules()
    assert {folder(name) for name in known} == floor.keys()
    upwards = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imports(path, known)
        if folder(name) != folder(other) and floor[folder(other)] >= floor[folder(name)]
    ]
    assert upwards == []


def test_init_files_hold_no_code() -> None:
    for path in PACKAGE.glob("*/**/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        allowed = (ast.Expr, ast.ImportFrom, ast.Assign) if path.parent.name in WITH_NAMES else ast.Expr
        assert all(isinstance(node, allowed) for node in body), path
