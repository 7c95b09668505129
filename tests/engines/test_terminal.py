"""What a run tells who watches it: a line for each job, few for a failed one, and the time left."""

import logging
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bioclip_lite.engines import snakemake_records, terminal
from bioclip_lite.utils import exit_status
from support import checkout
from support.checkout import ENVIRONMENT, set_parameter, sh


@pytest.fixture(scope="module")
def folder(thin_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout.clone(thin_built, tmp_path_factory.mktemp("terminal") / "run")


def change(folder: Path, job: str, command: str) -> None:
    """Put a shell command before what the job of this log in stage distill runs."""
    path = folder / "workflow/rules/distill.smk"
    pattern = rf'(logs/distill/{job}\.log".*?shell:\s*")'
    text, count = re.subn(pattern, lambda found: found[1] + command, path.read_text(), count=1, flags=re.DOTALL)
    assert count == 1
    path.write_text(text)


def fails(command: str, folder: Path) -> str:
    done = subprocess.run(
        command, shell=True, cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode != 0 and "Traceback" not in done.stdout
    return done.stdout


def block(output: str, job: str) -> list[str]:
    """The lines about a failed job."""
    (found,) = re.findall(rf"^(FAILED  {job}: .*\n(?:  .*\n)*)", output, re.M)
    return found.splitlines()


@pytest.mark.pipeline
def test_a_job_that_a_signal_ends_says_so_and_a_later_run_says_where_the_report_is(folder: Path) -> None:
    rules = folder / "workflow/rules/distill.smk"
    before = rules.read_text()
    set_parameter(folder, "distill.seed", 1)
    crash = "python -X faulthandler -c 'import os; print(1, flush=True); os.kill(os.getpid(), 11)' > {log} 2>&1; "
    change(folder, "control", crash)
    change(folder, "student", "kill -KILL $$; ")
    output = fails("snakemake --cores all --keep-going -- evaluate", folder)
    head, *said = block(output, "distill control")
    assert re.fullmatch(r"FAILED  distill control: the job was ended by SIGSEGV after [\d.]+ s, a crash in .*", head)
    assert said[0] == "  | Fatal Python error: Segmentation fault"  # which line of Python it was
    assert "  log: logs/distill/control.log" in said
    assert "lscpu" in said[-1] and "try: " in said[-1]
    head, *said = block(output, "distill student")
    assert head.endswith("most often because memory ran out") and "SIGKILL" in head
    assert said[:2] == ["  | (the log is empty)", "  log: logs/distill/student.log"]
    assert "batch_size" in said[2] and "--cores 1" in said[2]
    jobs = int(re.search(r"^(\d+) jobs to do$", output, re.M)[1])  # type: ignore[index]
    assert re.search(rf"^2 jobs failed, 0 of {jobs} done\. .* run the same command again", output, re.M)
    assert "--inputs" not in output  # neither bash nor Snakemake repeats the command
    assert len(output.splitlines()) < 30

    rules.write_text(before)
    output = sh("snakemake --cores all -- evaluate", folder)
    numbers = re.findall(rf"^ *(\d+)/{jobs}  \w+ +\S+ +[\d.]+ s", output, re.M)
    assert [int(number) for number in numbers] == [*range(1, jobs + 1)] and jobs > 15
    assert re.search(rf"^{jobs} jobs done in [\d.]+ s", output, re.M)
    assert output.splitlines()[-1] == "The report is in data/evaluate/report.html"
    assert "\x1b" not in output and "\r" not in output
    assert len(output.splitlines()) <= jobs + 6

    # Now there is an earlier run that tells the time left.
    output = sh("snakemake --cores all --forcerun write_report -- evaluate", folder)
    assert re.search(r"^2 jobs to do, about \d+ s$", output, re.M)
    assert re.search(r"^1/2  evaluate +report +[\d.]+ s  about \d+ s left$", output, re.M)


@pytest.mark.pipeline
def test_a_terminal_shows_what_runs_and_an_interrupted_run_is_no_failure(folder: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["snakemake", "--cores", "all", "--forcerun", "write_report", "--", "evaluate"],
        cwd=folder,
        env=ENVIRONMENT | {"THIN_JOB_SECONDS": "60", "TERM": "xterm", "COLUMNS": "110"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = ""
    for part in _parts(ours):
        shown += part
        if re.search(r"evaluate +report +([3-9]\.\d|\d\d) s of about \d+ s", shown):
            os.killpg(process.pid, signal.SIGINT)
            break
    shown += "".join(_parts(ours))
    assert process.wait() == 1, shown
    assert "0 of 2 jobs" in shown and "about 1 s left" in shown
    assert "Stopped, 0 of 2 jobs done" in shown
    assert "FAILED" not in shown and "Traceback" not in shown
    assert shown.rstrip("\r\n\x1b[0m").endswith(".snakemake.log") and "\x1b[?25h" in shown  # the cursor is back


def _parts(terminal: int) -> Iterator[str]:
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            return
        if not part:
            return
        yield part.decode(errors="replace")


@pytest.mark.pipeline
def test_a_users_mistake_is_told_once_and_ends_both_engines(folder: Path) -> None:
    """Here DVC starts Snakemake; above, the user does."""
    before = (folder / "params.yaml").read_text()
    set_parameter(folder, "index.min_side", 5000)
    output = fails("dvc repro", folder)
    (folder / "params.yaml").write_text(before)
    head, *said = block(output, "index tables")
    assert re.fullmatch(r"FAILED  index tables: the job failed after [\d.]+ s with status 1", head)
    assert said[-3].startswith("  | index: ") and "the shorter side must have 5000" in said[-3]
    assert said[-2:] == ["  log: logs/index/tables.log", "  this job alone: python -m bioclip_lite index tables"]
    assert output.count(said[-3].removeprefix("  | ")) == 1
    assert "workflow/bioclip_lite/" not in output  # inputs of the rule
    assert re.search(r"^1 job failed, 0 of \d+ done\. .* run the same command again", output, re.M)
    assert "ERROR: failed to reproduce 'index'" in output


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-9, "was ended by SIGKILL after 2 s, most often because memory ran out"),
        (137, "was ended by SIGKILL after 2 s, most often because memory ran out"),
        (139, "was ended by SIGSEGV after 2 s, a crash in compiled code"),
        (-7, "was ended by SIGBUS after 2 s, most often because the disk or /dev/shm is full"),
        (132, "was ended by SIGILL after 2 s, an instruction that this processor does not have"),
        (-signal.SIGUSR1, "was ended by SIGUSR1 after 2 s"),
        (75, "stopped after 2 s as asked"),
        (127, "could not be started: a program is missing"),
        (1, "failed after 2 s with status 1"),
        (255, "failed after 2 s with status 255"),
    ],
)
def test_statuses_in_words(status: int, words: str) -> None:
    assert exit_status.in_words(status, " after 2 s") == words
    assert (exit_status.advice(status) is None) == (status in (1, 255, -signal.SIGUSR1))


@pytest.mark.parametrize(
    ("command", "status"), [("exit 3", 3), ("kill -SEGV $$", -11), ("bash -c 'kill -SEGV $$'; exit $?", 139)]
)
def test_statuses_are_found_where_python_wrote_them(command: str, status: int) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        subprocess.run(["bash", "-c", command], check=True, stderr=subprocess.DEVNULL)
    assert exit_status.find(f"RuleException:\n{error.value}\n  File x") == status
    assert exit_status.find("nothing of the kind") is None


def test_the_time_left_comes_from_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledgers = terminal.usual_seconds()
    assert set(ledgers.values()) == {0.0}
    snakemake_records.prepare()
    for path, rule, start, end in [
        ("a1", "a", 100, 110),
        ("b/model", "b", 100, 110),
        ("b/history", "b", 100, 110),  # of the same job
        ("a2", "a", 120, 124),
        ("c", "c", 200, 200),  # made elsewhere
        ("d", "d", None, None),
    ]:
        snakemake_records.write(path, {"rule": rule, "starttime": start, "endtime": end})
    assert terminal.usual_seconds() == {**ledgers, "a": 7.0, "b": 10.0}

    handler = new_handler()
    handler.emit(event("run_info", stats={"a": 3, "b": 1, "evaluate": 1, "total": 5}))
    assert handler._time_left("{}") == "31 s"
    handler.emit(event("job_info", jobid=1, rule_name="b", log=["logs/b/x.log"], created=time.time() - 5))
    assert handler._time_left("{}") == "17 s"  # 26 s of jobs, at the pace of (5 + 10) / 10 at once
    handler.emit(event("run_info", stats={"a": 3, "new": 1, "total": 4}))
    assert handler._time_left("{}") == ""


def new_handler(**settings: Any) -> terminal.LogHandler:
    common = {"dryrun": False, "verbose": False, "printshellcmds": False, "debug_dag": False, "nocolor": False}
    return terminal.LogHandler(SimpleNamespace(**{**common, "quiet": None, **settings}), None)  # type: ignore[arg-type]


def event(name: str | None, message: str = "", level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    record.__dict__.update(event=name, **fields)
    return record


def test_a_mistake_in_params_is_told_without_the_lines_of_the_snakefile(capsys: pytest.CaptureFixture[str]) -> None:
    handler = new_handler(quiet={"all"})
    told = 'WorkflowError in file "rules/common.smk", line 33:\nprune.steps is 0\n  File "x", line 1, in <module>'
    handler.emit(event("error", told, logging.ERROR, exception="WorkflowError"))
    handler.emit(event(None, "Building DAG of jobs..."))
    assert capsys.readouterr().err == "prune.steps is 0\n"


def test_a_job_of_a_cluster_that_ran_out_of_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "slurm.log"
    log.write_text("slurmstepd: error: *** JOB 12 CANCELLED DUE TO TIME LIMIT ***\n")
    message = "SLURM-job '12' failed, SLURM status is: 'TIMEOUT'. For further error details see the log"
    logs = ["logs/distill/student.log", str(log)]
    job: dict[str, Any] = {"jobid": 7, "rule_name": "train_student", "log": logs, "indent": False}
    handler = new_handler()
    handler.emit(event("job_error", shellcmd=None, rule_msg=message, output=[], level=logging.ERROR, **job))
    head, *said = capsys.readouterr().err.splitlines()
    assert head == "FAILED  distill student: the job failed (SLURM-job '12' failed, SLURM status is: 'TIMEOUT')"
    assert said[-1] == f"  log: logs/distill/student.log, {log}"


@pytest.mark.parametrize(
    ("seconds", "exact", "text"),
    [
        (0.04, True, "0.0 s"),
        (9.96, True, "10.0 s"),
        (48.2, True, "48 s"),
        (59.7, True, "1 min 0 s"),
        (200, True, "3 min 20 s"),
        (200, False, "3 min"),
        (3599, True, "1 h 0 min"),
        (7500, False, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, exact: bool, text: str) -> None:
    assert terminal.duration(seconds, exact) == text


def test_the_last_words_of_a_job_are_of_this_run(tmp_path: Path) -> None:
    log = tmp_path / "student.log"
    job = terminal.Job("train_student", "distill student", str(log), time.time())
    assert terminal.last_words(job) == ""
    log.write_text("epoch 1\n 10%\r 20%\repoch 2 of 9\n\n")
    assert terminal.last_words(job._replace(began=time.time() - 60)) == "epoch 2 of 9"
    assert terminal.last_words(job._replace(began=time.time() + 60)) == ""


def test_the_end_of_a_log_is_short() -> None:
    assert terminal.tail("\n".join(map(str, range(50)))) == [str(n) for n in range(40, 50)]
    assert terminal.tail("") == ["(the log is empty)"]
    assert terminal.tail("x" * 5000) == ["x" * 500 + " ..."]


def test_python_says_where_it_crashed() -> None:
    crash = "import sys; sys.argv = ['', 'status', '--help']; import bioclip_lite.__main__ as m, os\n"
    crash += "m.importlib.import_module = lambda name: os.kill(os.getpid(), 11)\nm.main()"
    done = subprocess.run([sys.executable, "-c", crash], capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV
    assert terminal.tail(done.stderr)[0] == "Fatal Python error: Segmentation fault"
    assert any("in main" in line for line in terminal.tail(done.stderr))


def test_dry_runs_and_verbose_ones_print_what_snakemake_does() -> None:
    assert new_handler().details is None
    for option in ("dryrun", "verbose", "printshellcmds", "debug_dag"):
        assert new_handler(**{option: True}, stdout=False, show_failed_logs=True).details is not None


@pytest.mark.pipeline
def test_a_warning_in_the_log_of_a_job_is_shown_once_while_the_job_runs(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "run")
    sh("dvc checkout -q", folder)
    set_parameter(folder, "distill.seed", 2)
    change(folder, "student", "echo 'warning: of an odd kind' > {log}; sleep 7; ")
    lines = sh("snakemake --cores all -- distill", folder).splitlines()
    assert lines.count("warning: of an odd kind") == 1
    assert lines.index("warning: of an odd kind") < next(
        i for i, line in enumerate(lines) if "distill   student" in line
    )
