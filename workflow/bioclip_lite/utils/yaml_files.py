"""Read and write YAML as DVC does: YAML 1.2, by ruamel.yaml."""

import copy
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

from bioclip_lite.utils.errors import UserError

_MOST_VALUES = 100_000  # of a parameter file


def read(path: Path) -> dict[str, Any]:
    """The content of a parameter file, not yet checked against the schema.

    Raises:
        UserError: the file is missing, is not UTF-8 or not YAML, or holds no mapping; the line is named.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run from the root of the repository") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        params = _parse(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UserError(f"{path}, line {line}: byte 0x{byte:02X} is not UTF-8; save the file as UTF-8") from None
    except UserError as error:
        raise UserError(f"{path}, {error}") from None
    if not isinstance(params, dict):
        raise UserError(
            f"{path}, line 1: the file holds no mapping, but {'nothing' if params is None else repr(params)}; it "
            f"must have sections, each a name followed by a colon"
        )
    if _is_larger(params, _MOST_VALUES):
        raise UserError(f"{path} has more than {_MOST_VALUES:,} values, most of them by references; write out few")
    return copy.deepcopy(params)


def _is_larger(value: Any, most: int) -> bool:
    """Tell whether a value holds more than ``most`` values; a few lines that refer to each other can hold billions.

    A value that contains itself is not entered again: the check of the parameters says where it does.
    """
    left, count = [(value, False)], 0
    above: set[int] = set()
    while left and count <= most:
        one, entered = left.pop()
        if entered:
            above.remove(id(one))
            continue
        count += 1
        if isinstance(one, dict | list) and id(one) not in above:
            above.add(id(one))
            left.append((one, True))
            left += [(inner, False) for inner in (one.values() if isinstance(one, dict) else one)]
    return count > most


@cache
def _parse(text: str) -> Any:
    """Raises UserError, whose message begins with the line, if ruamel.yaml cannot read the text."""
    from ruamel.yaml import YAML, YAMLError  # takes a hundredth of a second, and jobs get their section as JSON
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        return YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(
            f"line {mark.line + 1 if mark else 1}: {_advice(error.problem or str(error.context))}"
        ) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"line {line}: the character U+{error.character:04X} is not allowed; remove it") from None
    except ValueError as error:  # ._ has the form of a number; ruamel.yaml does not say where it stands
        raise UserError(f"a value that looks like a number is none ({error}); put it in quotes") from None
    except (YAMLError, RecursionError) as error:
        raise UserError(f"this is not valid YAML ({error}); correct it") from None


def _advice(problem: str) -> str:
    """One sentence for what ruamel.yaml says in several lines."""
    if twice := re.match(r'found duplicate key "(.*?)" with value', problem, re.DOTALL):
        return f"{twice[1]} is there twice; remove one of them"
    if "'\\t'" in problem:
        return "there is a tab, which YAML does not allow here; use spaces"
    return f"this is not valid YAML ({' '.join(problem.split())}); correct it"


def dump(value: Any) -> str:
    """A value as block YAML, as in params.yaml."""
    return _dump(value, flow=False)


def dump_flow(value: Any) -> str:
    """A value as one line of YAML, as in ``{macs: 0.5}``."""
    return _dump(value, flow=True).removesuffix("...\n").rstrip("\n")


def _dump(value: Any, flow: bool) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        """Of numbers that YAML 1.1 reads as numbers too: 1.0e-08, not 1e-08."""

        def represent_float(self, data: float) -> Any:
            node = super().represent_float(data)
            if "." not in node.value:
                node.value = node.value.replace("e", ".0e")
            return node

    Representer.add_representer(float, Representer.represent_float)
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = Representer
    yaml.default_flow_style = flow
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 4096 if flow else 100
    text = io.StringIO()
    yaml.dump(value, text)
    return text.getvalue()
