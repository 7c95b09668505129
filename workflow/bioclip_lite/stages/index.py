"""Stage index: list the photographs of a source, resolve their taxa and divide them into splits.

It is one job, "tables". With ``index.parts`` above 1, "manifest" first lists what each part of the source holds,
"downloads/00000" and so on fetch it, "read/00000" and so on read it, and "tables" writes what the one job would.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.indexing import parts
from bioclip_lite.utils import job_names

if TYPE_CHECKING:
    from bioclip_lite.utils.sections import Index

JOBS = ("manifest", "downloads/{part}", "read/{part}", "tables")  # job_names


def run(params: "Index", data: Path, job: str | None = None) -> None:
    """Write data/index.

    Args:
        params: section index of params.yaml.
        job: one of JOBS; None: all of them in one.

    Raises:
        UserError: the source or a list is not as it must be, or no classifier can be trained on what is left.
    """
    form, fields = job_names.parse("index", job, JOBS) if job else ("tables", {})
    out = data / "index"
    out.mkdir(parents=True, exist_ok=True)
    if form == "downloads/{part}":
        parts.download(params, out, fields["part"])
    elif form == "read/{part}":
        parts.read(params, out, fields["part"])
    # Loaded by name, so that a change of the tables does not read the photographs again (code_fingerprint.closure).
    elif form == "manifest":
        importlib.import_module("bioclip_lite.indexing.listing").write_manifests(params, data)
    elif job and params["parts"] > 1:
        importlib.import_module("bioclip_lite.indexing.merging").index_parts(params, data)
    else:
        importlib.import_module("bioclip_lite.indexing.merging").index_source(params, data)
