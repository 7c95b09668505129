"""XMP: answers as keywords that photo managers show, in sidecar files or in the photographs themselves.

ExifTool writes them, a program of its own with its own licence. Names are added to dc:subject and
lr:hierarchicalSubject, beside what is there; where answers come from stands in a namespace of ours. Foreign tags are
kept. Names that an earlier run added are taken away again.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import ImageChops

from bioclip_lite.photographs.images import decode
from bioclip_lite.predicting.answers import Answer
from bioclip_lite.predicting.darwin_core import remarks
from bioclip_lite.predicting.origin import Origin
from bioclip_lite.predicting.records import Record, path_of
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing

Ask = Callable[[Sequence[bytes | str]], str]

_ENDING = ".xmp"  # of a sidecar, after the whole name of the photograph
_TOP = "bioclip-lite"  # the first level of our hierarchical keywords
_SUBJECT, _HIERARCHY = "XMP-dc:Subject", "XMP-lr:HierarchicalSubject"
_FIELDS = ("Run", "Model", "ModelSHA256", "Rank", "ScientificName", "Score", "Threshold", "Remarks", "Added")
_CONFIG = f"""%Image::ExifTool::UserDefined = ('Image::ExifTool::XMP::Main' => {{
  bioclip => {{ SubDirectory => {{ TagTable => 'Image::ExifTool::UserDefined::bioclip' }} }} }});
%Image::ExifTool::UserDefined::bioclip = (
  GROUPS => {{ 0 => 'XMP', 1 => 'XMP-bioclip', 2 => 'Image' }},
  NAMESPACE => {{ 'bioclip' => 'urn:bioclip-lite:1.0/' }},
  WRITABLE => 'string', {", ".join(f"{field} => {{ }}" for field in _FIELDS)});
1;
"""
_END = b"{ready}"


class NotWritten(Exception):
    """A photograph, or its sidecar, that stays as it was, with the reason."""


@contextmanager
def exiftool() -> Iterator[Ask]:
    """Start ExifTool; yields a function from its arguments to what it prints. It runs until the block ends.

    Raises:
        UserError: it is not installed.
    """
    program = shutil.which("exiftool")
    if program is None:
        raise UserError(
            "ExifTool, which writes XMP, is not installed: get it from https://exiftool.org, or by apt install "
            "libimage-exiftool-perl, brew install exiftool, or conda install -c conda-forge exiftool"
        )
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
        config = Path(scratch) / "config"
        config.write_text(_CONFIG, encoding="utf-8")
        command = [program, "-config", str(config), "-stay_open", "True", "-@", "-"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as running:
            assert running.stdin and running.stdout

            def ask(arguments: Sequence[bytes | str]) -> str:
                lines = [part if isinstance(part, bytes) else part.encode() for part in arguments]
                assert running.stdin and running.stdout
                running.stdin.write(b"\n".join([*lines, b"-execute", b""]))
                running.stdin.flush()
                said = iter(running.stdout.readline, b"")
                return b"".join(iter(lambda: _before_end(next(said, _END)), b"")).decode(errors="replace")

            try:
                yield ask
            finally:
                running.stdin.write(b"-stay_open\nFalse\n")
                running.stdin.close()


def _before_end(line: bytes) -> bytes:
    """A line that ExifTool prints; nothing for the one that ends an answer."""
    return b"" if line.startswith(_END) else line


def target_of(file: Path, in_place: bool) -> Path:
    """The file that holds the XMP of a photograph: itself, or its sidecar."""
    return file if in_place else file.with_name(file.name + _ENDING)


def is_answered(ask: Ask, file: Path, in_place: bool, run: str) -> bool:
    """Whether a photograph has the answers of ``run`` already; a sidecar older than the photograph does not count."""
    target = target_of(file, in_place)
    if "\n" in str(target) or not (target.is_file() and file.is_file()):
        return False
    try:
        return target.stat().st_mtime >= file.stat().st_mtime and _ours(ask, target).get("Run") == run
    except NotWritten:
        return False  # ``write`` says why


def write(ask: Ask, record: Record, origin: Origin, in_place: bool, run: str) -> None:
    """Add the answer to a photograph to its sidecar, which is made where there is none, or to the photograph itself.

    Raises:
        NotWritten: ExifTool does not write such a file, or the photograph has changed since it was answered. Nothing
            is changed then.
    """
    file = path_of(record)
    target = target_of(file, in_place)
    if "\n" in str(target):
        raise NotWritten("its name has a line break, which ExifTool cannot be told")
    if in_place:
        _write_photograph(ask, file, record, _arguments(ask, target, record, origin, run))
        return
    arguments = _arguments(ask, target, record, origin, run)
    with replacing(target) as scratch:
        if target.exists():
            shutil.copyfile(target, scratch)
        _change(ask, scratch, arguments)
        os.utime(scratch)  # ExifTool writes whole seconds, which may lie before the time of the photograph


def _write_photograph(ask: Ask, file: Path, record: Record, arguments: list[str]) -> None:
    """Replace a photograph by a copy with other XMP, once it is certain that its pixels are the same."""
    if file.is_symlink():
        raise NotWritten(f"it is a link to {file.readlink()}, name that file, or write sidecars")
    content, mode = file.read_bytes(), file.stat().st_mode
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise NotWritten("it has changed since it was answered")
    with replacing(file) as scratch:
        shutil.copy2(file, scratch)
        _change(ask, scratch, arguments)
        before, after = decode(content), decode(scratch.read_bytes())
        if before.size != after.size or ImageChops.difference(before, after).getbbox():
            raise NotWritten("ExifTool would have changed its pixels")
        with scratch.open("rb+") as written:  # on the disk before it takes the photograph's name
            os.fsync(written.fileno())
    file.chmod(mode)


def _arguments(ask: Ask, target: Path, record: Record, origin: Origin, run: str) -> list[str]:
    """Arguments of ExifTool that take away what an earlier run added, and add the answer."""
    there = _read(ask, target, [_SUBJECT, _HIERARCHY]) if target.exists() else {}
    earlier = json.loads(_ours(ask, target).get("Added", "[]")) if target.exists() else []
    answer = record["answers"][0] if record["answers"] else None
    names = [[_SUBJECT, name] for name in _names(answer)] + [[_HIERARCHY, _hierarchy(answer)]]
    kept = [[tag, str(value)] for tag in (_SUBJECT, _HIERARCHY) for value in _listed(there.get(tag.split(":")[1]))]
    added = [pair for pair in names if pair not in kept or pair in earlier]
    about = {
        "Run": run,
        "Model": origin.model,
        "ModelSHA256": origin.sha256,
        "Rank": answer["rank"] if answer else "",
        "ScientificName": answer["scientific_name"] if answer else "",
        "Score": f"{answer['score']:.6f}" if answer else "",
        "Threshold": "" if answer is None or answer["threshold"] is None else f"{answer['threshold']:g}",
        "Remarks": remarks(record, origin),
        "Added": json.dumps(added, ensure_ascii=False),
    }
    return [
        *(f"-{tag}-={name}" for tag, name in [*earlier, *added]),
        *(f"-{tag}+={name}" for tag, name in added),
        *(f"-XMP-bioclip:{field}={' '.join(value.split())}" for field, value in about.items()),
    ]


def _names(answer: Answer | None) -> list[str]:
    names = (answer["scientific_name"], answer["common_name"]) if answer else ()
    return [" ".join(name.split()) for name in names if name]


def _hierarchy(answer: Answer | None) -> str:
    if answer is None:
        return f"{_TOP}|unknown"
    above = [name for name in answer["path"] if name and name != answer["path"][-1]]
    names = above if answer["path"][-1] is None else [*above, answer["scientific_name"]]
    return "|".join([_TOP, *names])


def _ours(ask: Ask, target: Path) -> dict[str, str]:
    return {name: str(value) for name, value in _read(ask, target, ["XMP-bioclip:all"]).items()}


def _read(ask: Ask, target: Path, tags: Sequence[str]) -> dict[str, Any]:
    said = ask(["-json", *(f"-{tag}" for tag in tags), os.fsencode(target.absolute())])
    start = said.find("[{")
    if start < 0:
        raise NotWritten(f"ExifTool cannot read {target.name}: {said.strip()}")
    found: dict[str, Any] = json.loads(said[start : said.rindex("]") + 1])[0]
    return found


def _listed(value: Any) -> list[Any]:
    """A list of ExifTool's JSON, which writes one value without its list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _change(ask: Ask, file: Path, arguments: Sequence[str]) -> None:
    said = ask(["-overwrite_original", "-P", *arguments, os.fsencode(file.absolute())])
    if "1 image files updated" not in said and "1 image files created" not in said:
        reason = next((line for line in said.splitlines() if line.startswith("Error")), said)
        raise NotWritten(f"ExifTool does not write it: {reason.strip()}")
