"""Print a run of Snakemake: a line for each job, a few for a failed one, and the running jobs.

On a terminal the last lines show the running jobs and the time left; in a file or pipe there are plain lines only. Dry
runs, ``--verbose``, ``--printshellcmds`` and ``--debug-dag`` ask for details: they print what Snakemake itself would.
"""

import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from logging import ERROR, WARNING, LogRecord
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from snakemake_interface_logger_plugins.base import LogHandlerBase

from bioclip_lite.engines import snakemake_records
from bioclip_lite.utils import exit_status
from bioclip_lite.utils.stage_names import STAGES

if TYPE_CHECKING:
    from rich.console import RenderableType

LEDGERS = {f"record_{stage}" for stage in STAGES}
TARGETS = {*STAGES, "all", "default"}  # rules that only name what to make
LABEL = 32  # characters for stage and job
STEADY_SECONDS = 10.0  # of jobs before this run's own pace counts more than that of earlier ones
ROWS = 8  # running jobs shown at once
TAIL = 10  # lines of a failed job's log
LONGEST = 500  # characters of such a line
WARNING_SECONDS = 5.0  # between two looks for warnings in the logs of running jobs
QUIET_SECONDS = 60.0  # after which a log, as opposed to a terminal, names the jobs that still run
CHATTER = (  # messages of Snakemake that are left out
    "Activating ",
    "Assuming unrestricted shared filesystem usage",
    "At least one job did not complete successfully",
    "Building DAG of jobs",
    "DAG of jobs will be updated",
    "Elapsed time",
    "Exiting because a job execution failed",
    "Group jobs: inactive",
    "None",
    "Select jobs to execute",
    "Shutting down",
    "Singularity containers: ignored",
    "Updating checkpoint dependencies",
    "Using shell",
    "WorkflowError:\nAt least one job did not complete successfully",
)
IGNORED = {"group_info", "job_started", "resources_info", "rulegraph", "shellcmd", "workflow_started"}


class Job(NamedTuple):
    """A job that runs."""

    rule: str
    label: str  # stage and job, as in ``python -m bioclip_lite distill student`` and the name of its log
    log: str | None
    began: float  # seconds since the epoch


class LogHandler(LogHandlerBase):
    """Receives Snakemake's messages, in a thread of its own, with ``--logger bioclip-lite``."""

    def __post_init__(self) -> None:
        settings = self.common_settings
        self.running: dict[int, Job] = {}
        self.left: Counter[str] = Counter()  # jobs of each rule that have not finished
        self.usual: dict[str, float] = {}  # seconds of a job of each rule in earlier runs
        self.done = self.total = self.targets = self.failed = 0
        self.busy = self.taken = self.expected = 0.0  # seconds of finished jobs; of those with usual ones, now and then
        self.warnings: set[str] = set()  # those of jobs that have been printed
        self.reasons: list[str] = []  # exceptions of jobs whose failure has not been printed
        self.began = self.printed = time.time()
        self.over = threading.Event()
        self.live: Any = None
        self.console: Any = None
        quiet = {str(kind).rpartition(".")[2].lower() for kind in settings.quiet or ()}
        self.only_errors = "all" in quiet
        self.shows_jobs = not quiet & {"all", "progress", "rules"}  # with these Snakemake does not report finished jobs
        self.handlers: dict[str, Callable[[Any], None]] = {
            "run_info": self._plan,
            "job_info": self._start,
            "job_finished": self._finish,
            "progress": self._progress,
            "job_error": self._fail,
            "group_error": self._fail_group,
        }
        self.details = None
        if settings.dryrun or settings.verbose or settings.printshellcmds or settings.debug_dag:
            self.details = _handler_of_snakemake(settings)
        elif sys.stderr.isatty():
            from rich.console import Console

            console = Console(stderr=True, no_color=True if settings.nocolor else None, highlight=False)
            self.console = None if console.is_dumb_terminal else console

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True

    @property
    def has_formatter(self) -> bool:
        return True

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: LogRecord) -> None:
        try:
            if self.details:
                self.details.handle(record)
            else:
                self._take(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._stop()
        super().close()

    # Events

    def _take(self, record: Any) -> None:
        event = str(getattr(record, "event", None))
        if event in self.handlers:
            self.handlers[event](record)
        elif event not in IGNORED:
            self._pass_on(event, record.getMessage(), record.levelno)

    def _pass_on(self, event: str, message: str, level: int) -> None:
        """Print a message of Snakemake's in its own words, or in fewer."""
        if event == "error" and "CalledProcessError" in message:
            self.reasons.append(message)  # the failed job follows
        elif message.startswith(CHATTER):
            pass
        elif message.startswith("Complete log(s): "):
            self._end(message.removeprefix("Complete log(s): "))
        elif message.startswith("Trying to restart job"):
            self._print("  It is tried again.")
        elif level >= ERROR:
            self._print(_without_places(message), "red")
        elif not self.only_errors:
            self._print(message, "yellow" if level >= WARNING else "")

    def _plan(self, record: Any) -> None:
        counts: dict[str, int] = record.stats
        self.left = Counter({rule: n for rule, n in counts.items() if rule not in {*TARGETS, "total"}})
        self.total = self.left.total()
        self.targets = counts.get("total", 0) - self.total
        self.usual = usual_seconds()
        if self.shows_jobs and self.total:
            self._print(f"{self.total} job{'s' * (self.total > 1)} to do{self._time_left(', about {}')}")

    def _start(self, record: Any) -> None:
        if record.rule_name in TARGETS:
            return
        log = record.log[0] if record.log else None
        self.running[record.jobid] = Job(record.rule_name, _label(record), log, record.created)
        if self.shows_jobs and self.console and not self.live:
            from rich.live import Live

            self.live = Live(console=self.console, get_renderable=self._now, refresh_per_second=4, transient=True)
            self.live.start()
        if len(self.running) == self.done + 1 == 1:
            threading.Thread(target=self._tell_from_time_to_time, daemon=True).start()

    def _finish(self, record: Any) -> None:
        if not (job := self.running.pop(record.job_id, None)):
            return
        self._warn(job)
        seconds = record.created - job.began
        self.done += 1
        self.left[job.rule] -= 1
        self.busy += seconds
        if usual := self.usual.get(job.rule):
            self.taken += seconds
            self.expected += usual
        if self.shows_jobs:
            count = f"{self.done:>{len(str(self.total))}}/{self.total}"
            left = "" if self.console else self._time_left("  about {} left")
            self._print(f"{count}  {job.label:{LABEL}} {duration(seconds):>12}{left}")

    def _progress(self, record: Any) -> None:
        self.total = record.total - self.targets  # less than planned where a checkpoint finds that jobs need not run
        if record.done == record.total:
            self._stop()
            if self.shows_jobs and self.done:
                self._print(f"{self.done} jobs done in {duration(time.time() - self.began)}; their logs are in logs/")

    def _fail(self, record: Any) -> None:
        job = self.running.pop(record.jobid, None)
        if record.indent and all(Path(path).exists() for path in record.output):
            return  # of a group in which another job failed
        reason = next((text for text in self.reasons if (record.shellcmd or "\0").strip() in text), None)
        if reason:
            self.reasons.remove(reason)
        log, *of_cluster = record.log or [None]
        status = exit_status.find(reason or "".join(map(_text, of_cluster)))
        after = f" after {duration(record.created - job.began)}" if job else ""
        outcome = exit_status.in_words(status, after) if status else f"failed{after}"
        note = f" ({record.rule_msg.partition('. ')[0]})" if record.rule_msg else ""
        if status and exit_status.signal_name(status) == "SIGINT":
            return  # from the keyboard; the end says that the run was stopped
        self.failed += 1
        head = "STOPPED" if status == exit_status.STOPPED else "FAILED"
        self._print(f"{head}  {' '.join(_label(record).split())}: the job {outcome}{note}", "bold red")
        for line in tail(_text(log)) if log else ():
            self._print(f"  | {line}")
        logs = [path for path in (log, *of_cluster) if path]
        self._print(f"  log: {', '.join(logs) or 'none'}")
        advice = exit_status.advice(status) if status else None
        if advice:
            self._print(f"  try: {advice}")
        if alone := re.match(r"python -m bioclip_lite \w+(?: [^-\s]\S*)?", record.shellcmd or ""):
            self._print(f"  this job alone: {alone[0]}")

    def _fail_group(self, record: Any) -> None:
        status = exit_status.find("".join(map(_text, record.aux_logs)))
        outcome = f": a job {exit_status.in_words(status)}" if status else ""
        self._print(f"FAILED  group of {len(record.job_error_info)} jobs{outcome}", "bold red")
        self._print(f"  log: {', '.join(record.aux_logs) or 'none'}")

    def _end(self, log: str) -> None:
        """After the last job of a run, whether it succeeded or not."""
        self._stop()
        if self.failed:
            done = f", {self.done} of {self.total} done" if self.shows_jobs else ""
            count = f"{self.failed} job{'s' * (self.failed > 1)} failed{done}"
            self._print(f"{count}. Put that right and run the same command again: what is done is kept.", "bold")
        elif self.shows_jobs and self.done < self.total:
            count = f"Stopped, {self.done} of {self.total} jobs done"
            self._print(f"{count}. The same command again goes on from there.", "bold")
        else:
            return
        self._print(f"Snakemake's own log: {_relative(log)}")

    # Running jobs

    def _now(self) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        jobs = list(self.running.values())
        margin = " " * (2 * len(str(self.total)) + 1)  # as wide as the numbers of the finished jobs above
        rows = Table.grid(padding=(0, 2), expand=True)
        rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for job in jobs[:ROWS]:
            taken = f"{job.label:{LABEL}} {duration(time.time() - job.began):>12}"
            usual = self.usual.get(job.rule, 0.0) if self.console.width >= 100 else 0.0
            of = f" of about {duration(usual, exact=False)}" if usual else ""
            rows.add_row(Text(f"{margin}  {taken}{of}", "cyan"), Text(last_words(job), "dim"))
        if len(jobs) > ROWS:
            rows.add_row(f"{margin}  and {len(jobs) - ROWS} more", "")
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        elapsed = duration(time.time() - self.began)
        bar.add_row(
            f"{self.done} of {self.total} jobs",
            ProgressBar(total=max(self.total, 1), completed=self.done),
            elapsed + self._time_left(", about {} left"),
        )
        whole = Table.grid(expand=True)
        whole.add_row(rows)
        whole.add_row(bar)
        return whole

    def _tell_from_time_to_time(self) -> None:
        while not self.over.wait(WARNING_SECONDS):
            for job in list(self.running.values()):
                self._warn(job)
            if self.shows_jobs and not self.console and time.time() - self.printed > QUIET_SECONDS:
                for job in islice(list(self.running.values()), ROWS):
                    words = f": {last}" if (last := last_words(job)) else ""
                    self._print(f"running  {job.label}, {duration(time.time() - job.began)}{words}")

    def _warn(self, job: Job) -> None:
        """Print the lines of a job's log that begin with "warning: ", once: what a person may want to stop it for."""
        for line in _text(job.log or "").splitlines() if _is_new(job) else ():
            if line.startswith("warning: ") and line not in self.warnings and not self.only_errors:
                self.warnings.add(line)
                self._print(line, "yellow")

    def _time_left(self, form: str) -> str:
        """Empty unless all that is left has run before."""
        left = {rule: n for rule, n in self.left.items() if n > 0}
        if not left or left.keys() - self.usual.keys():
            return ""
        seconds = sum(n * self.usual[rule] for rule, n in left.items())
        running = [(job, time.time() - job.began) for job in list(self.running.values())]
        seconds -= sum(min(self.usual.get(job.rule, 0.0), passed) for job, passed in running)
        seconds *= (self.total - self.done) / self.left.total()  # some jobs may turn out not to be needed
        pace = (self.taken + STEADY_SECONDS) / (self.expected + STEADY_SECONDS)
        busy = self.busy + sum(passed for _, passed in running)
        at_once = max(1.0, (busy + STEADY_SECONDS) / (time.time() - self.began + STEADY_SECONDS))
        return form.format(duration(max(seconds * pace / at_once, 1.0), exact=False))

    # Output

    def _print(self, text: str, style: str = "") -> None:
        self.printed = time.time()
        if self.console:
            from rich.text import Text

            self.console.print(Text(text, style), soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _stop(self) -> None:
        self.over.set()
        if self.live:
            self.live.stop()
            self.live = None


def _handler_of_snakemake(settings: Any) -> Any:
    from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

    return ColorizingTextHandler(
        nocolor=settings.nocolor,
        stream=sys.stdout if settings.stdout else sys.stderr,
        formatter=DefaultFormatter(settings.quiet, settings.show_failed_logs),
        filter=DefaultFilter(
            settings.quiet, settings.debug_dag, settings.verbose, settings.dryrun, settings.printshellcmds
        ),
    )


def usual_seconds() -> dict[str, float]:
    """Rule -> mean seconds of its jobs in earlier runs here, from Snakemake's records of their outputs."""
    seconds: dict[str, list[float]] = {rule: [0.0] for rule in LEDGERS}  # whose times are set, and which take no time
    for path in snakemake_records.FOLDER.rglob("*"):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):  # half a record, of a run that was killed
            record = {}
        start, end = record.get("starttime") or 0.0, record.get("endtime") or 0.0
        if end > start > 0:  # both are the same where a record was learned from a ledger: the job ran elsewhere
            seconds.setdefault(record["rule"], []).append(end - start)
    return {rule: sum(times) / len(times) for rule, times in seconds.items()}


def duration(seconds: float, exact: bool = True) -> str:
    """``0.4 s``, ``48 s``, ``3 min 20 s``, ``2 h 5 min``; without seconds beside minutes unless ``exact``."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if exact and seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3570:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if exact else f"{round(seconds / 60)} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def tail(text: str) -> list[str]:
    """The last lines of a log, or from where Python says that it crashed."""
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    lines = [line if len(line) <= LONGEST else f"{line[:LONGEST]} ..." for line in lines if line]
    crash = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    return (lines[-TAIL:] if crash is None else lines[crash : crash + TAIL]) or ["(the log is empty)"]


def last_words(job: Job) -> str:
    """The last line of the log of a job that runs."""
    if not _is_new(job):
        return ""
    try:
        with Path(job.log or "").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2000))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _is_new(job: Job) -> bool:
    """Whether the log of a job that runs is of this run, not of an earlier one."""
    try:
        return Path(job.log or "").stat().st_mtime >= job.began
    except OSError:
        return False


def _label(record: Any) -> str:
    """Stage and job from the log's name, logs/<stage>/<job>.log."""
    parts = Path(record.log[0]).with_suffix("").parts if record.log else ()
    return f"{parts[1]:9} {'/'.join(parts[2:])}" if len(parts) > 2 and parts[0] == "logs" else record.rule_name


def _without_places(message: str) -> str:
    """A message for the user, without the lines of the Snakefile that raised it."""
    if not message.startswith("WorkflowError"):
        return message
    first, _, rest = message.partition("\n")
    lines = (rest if re.match(r"WorkflowError( in .*)?:$", first) else message).splitlines()
    return "\n".join(line for line in lines if not re.match(r'  File ".*", line \d+, in ', line))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _relative(path: str) -> str:
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
