"""Write docs/command-line.md from the parsers: ``python docs/hooks/command_line.py``."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from bioclip_lite.utils.command_line import GROUPS, SCRIPT, stage_parser

PAGE = Path(__file__).parents[1] / "command-line.md"
WIDTH = 84  # columns of the help texts
INTRODUCTION = """# Command line

`bioclip-lite` and `python -m bioclip_lite` are the same program. Completion for your shell:

```sh
mkdir -p ~/.local/share/bash-completion/completions
bioclip-lite completion bash > ~/.local/share/bash-completion/completions/bioclip-lite
```

For zsh save it as `_bioclip-lite` in a folder of `$fpath`; for fish as `~/.config/fish/completions/bioclip-lite.fish`.
"""


def page() -> str:
    """The page: the help of a stage, then of every command by group."""
    parts = [INTRODUCTION, "## Stages\n", _block(stage_parser())]
    for title, commands in GROUPS.items():
        parts.append(f"## {title.capitalize()}\n")
        for name in commands:
            module = importlib.import_module(f"bioclip_lite.commands.{name.replace('-', '_')}")
            parts += [f"### {name}\n", _block(module.parser())]
    return "\n".join(parts)


def _block(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help()}```\n"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


# The help names the program that was started, and wraps lines at the width of the terminal.
sys.argv[0] = SCRIPT
os.environ["COLUMNS"] = str(WIDTH)
if __name__ == "__main__":
    main()
