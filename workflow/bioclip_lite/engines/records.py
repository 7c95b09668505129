"""Read Snakemake's records and file times, and set them by content."""

import os
from pathlib import Path
from typing import Any

from bioclip_lite.engines import snakemake_records, stage_code
from bioclip_lite.engines.dvc_yaml import STAMP, files_in
from bioclip_lite.engines.hashes import Hashes
from bioclip_lite.utils.errors import UserError

LONG_AGO_NS = 10**9  # older than everything
_TICK_NS = 10**8  # between the last file of a directory() output and the stamp that Snakemake puts there
NO_JOB = ["no recorded job"]  # parameters that no job has
DEFINITION = ("rule", "params", "code", "conda_env", "container_img_url", "software_stack_hash")


class Records:
    """Snakemake's own record of how each output was made, and the output's time."""

    def __init__(self, hashes: Hashes) -> None:
        snakemake_records.prepare()
        self._hashes = hashes

    @staticmethod
    def time(path: str, as_input: bool = False) -> int:
        """Nanoseconds, as Snakemake sees them: a link counts itself, as an input also its target."""
        stamp = os.path.join(path, STAMP)
        if os.path.isdir(path) and os.path.exists(stamp):
            return os.stat(stamp).st_mtime_ns
        own = os.lstat(path).st_mtime_ns
        return max(own, os.stat(path).st_mtime_ns) if as_input else own

    def describes(self, path: str) -> bool:
        """Whether the job of the record left the file as it is now."""
        record = snakemake_records.read(path)
        if not record or record.get("incomplete") or record.get("endtime") is None:
            return False
        if any(map(stage_code.is_code, record["input"])):
            return False  # written by an earlier version, whose jobs had modules as inputs
        if os.path.isdir(path) and self._newest_in(path) > self.time(path) + _TICK_NS:
            return False  # its content was changed since
        return abs(record["endtime"] * 1e9 - self.time(path)) < 1000

    @staticmethod
    def _newest_in(folder: str) -> int:
        paths = [folder, *files_in(folder)]
        return max(os.lstat(path).st_mtime_ns for path in paths)

    def learn(self, path: str, job: dict[str, Any]) -> None:
        """Write the record that Snakemake would have if it had run the job here.

        The duration stays if Snakemake did run it here and DVC, copying from its cache, has set the time since.
        """
        old, seconds = snakemake_records.read(path), self.time(path) / 1e9
        same = old.get("input") == sorted(job["in"]) and all(old.get(field) == job.get(field) for field in DEFINITION)
        took = old["endtime"] - old["starttime"] if same and old.get("endtime") else 0.0
        self._write(path, job, seconds, took)

    def _write(self, path: str, job: dict[str, Any], seconds: float | None, took: float = 0.0) -> None:
        record = {
            **{field: job.get(field) for field in DEFINITION},
            "input": sorted(job["in"]),
            "input_checksums": job.get("sha256", {}),
            "record_format_version": snakemake_records.VERSION,
            "starttime": seconds and seconds - took,
            "endtime": seconds,
            "incomplete": False,
        }
        snakemake_records.write(path, record)

    def keep_absent(self, path: str, job: dict[str, Any], changed: bool) -> None:
        """Keep a record of an output that is not here, e.g. because it was never pulled.

        Snakemake leaves such files alone as long as what is made from them is up to date, but it compares parameters,
        code and inputs with the record, and without one it would miss every change.

        Args:
            changed: whether inputs of the job have changed since.
        """
        record = snakemake_records.read(path)
        if changed:
            if record.get("params") != NO_JOB:
                self.doubt(path)
        elif record.get("endtime") or any(record.get(field) != job.get(field) for field in ("params", "code")):
            self._write(path, job, None)

    def set_time(self, path: str, ns: int) -> None:
        described = self.describes(path)
        target, md5 = path, None
        if os.path.isdir(path):
            target = os.path.join(path, STAMP)
            Path(target).touch()
        else:
            md5 = self._hashes.remembered(path)
        if os.lstat(target).st_nlink > 1:
            raise UserError(
                f"{target} is a hard link, and setting its time would reach into the DVC cache; "
                "run: dvc config cache.type reflink,copy && dvc checkout --relink"
            )
        try:
            os.utime(target, ns=(ns, ns), follow_symlinks=False)
        except PermissionError:  # another user's file that the group may write: only "now" is allowed
            if ns == LONG_AGO_NS:
                self.doubt(path)
                return
            os.utime(target, follow_symlinks=False)
        if target == path:
            self._hashes.touched(path, md5)
        if described:  # and took as long as it did
            record, end = snakemake_records.read(path), self.time(path) / 1e9
            start = end - record["endtime"] + (record.get("starttime") or record["endtime"])
            snakemake_records.write(path, record | {"starttime": start, "endtime": end})

    def doubt(self, path: str) -> None:
        """Make Snakemake run the job of ``path`` again, whatever its time and that of its inputs."""
        snakemake_records.write(path, {"params": NO_JOB, "record_format_version": snakemake_records.VERSION})

    def forget(self, path: str) -> bool:
        """Make Snakemake distrust ``path``; False if it already did."""
        snakemake_records.delete(path)
        if self.time(path) == LONG_AGO_NS:
            return False
        self.set_time(path, LONG_AGO_NS)
        return True
