"""Exit statuses of programs in words, and advice on those that a signal causes."""

import re
import signal

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: training was asked to stop, and left a checkpoint
CRASH = (
    "a crash in compiled code",
    "run it again, and if it crashes again with ONEDNN_MAX_CPU_ISA=SSE41 set, which makes PyTorch use other kernels; "
    "please report an issue with the log and the output of lscpu",
)
SIGNALS = {  # what each most often means, and what to try
    "SIGKILL": (
        "most often because memory ran out",
        "take less memory: a smaller batch_size in params.yaml, or fewer jobs at once (--cores 1); "
        "on a cluster ask for more (mem_mb)",
    ),
    "SIGSEGV": CRASH,
    "SIGABRT": CRASH,
    "SIGFPE": CRASH,
    "SIGILL": (
        "an instruction that this processor does not have",
        "set ONEDNN_MAX_CPU_ISA=AVX2, or SSE41, and run again; please report an issue with the output of lscpu",
    ),
    "SIGBUS": (
        "most often because the disk or /dev/shm is full",
        "free some space (df -h . /dev/shm shows how much there is) and run again",
    ),
    "SIGXFSZ": ("a file grew beyond the limit for files", "raise the limit (ulimit -f) and run again"),
    "SIGXCPU": ("it used up the CPU time that it may take", "raise the limit (ulimit -t) and run again"),
    "SIGTERM": ("someone, or the cluster, asked it to end", "run the same command again: it goes on from there"),
    "SIGHUP": ("its terminal was closed", "run the same command again, in tmux or with nohup"),
    "SIGINT": ("interrupted from the keyboard", "run the same command again: it goes on from there"),
}
_OF_SHELL = re.compile(r"returned non-zero exit status (-?\d+)|died with (?:<Signals\.\w+: |unknown signal )(\d+)")


def signal_name(status: int) -> str | None:
    """The signal that ended a program, from its status as subprocess (-n) or a shell (128 + n) gives it."""
    number = -status if status < 0 else status - 128
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None


def in_words(status: int, after: str = "") -> str:
    """``was ended by SIGKILL, most often because memory ran out``, for any status but 0; ``after``: such a time."""
    if name := signal_name(status):
        return f"was ended by {name}{after}" + (f", {SIGNALS[name][0]}" if name in SIGNALS else "")
    if status == STOPPED:
        return f"stopped{after} as asked"
    if status in (126, 127):
        return "could not be started: a program is missing"
    return f"failed{after} with status {status}"


def advice(status: int) -> str | None:
    """Advice for an exit status; empty if only the program's own message can help."""
    if status in (126, 127):
        return "run make setup, then the same command again"
    if status == STOPPED:
        return "run the same command again: training goes on from its checkpoint"
    return SIGNALS.get(signal_name(status) or "", (None, None))[1]


def find(text: str) -> int | None:
    """The last status in text that subprocess.CalledProcessError wrote."""
    found = _OF_SHELL.findall(text)
    return None if not found else int(found[-1][0]) if found[-1][0] else -int(found[-1][1])
