"""Which code a job depends on, and when an edit matters."""

from bioclip_lite.closure import closure, meaning

COMMANDS = "workflow/bioclip_lite/commands/"


def test_the_closure_follows_imports_down_and_inside_functions() -> None:
    files = closure("stages.shard")
    assert "workflow/bioclip_lite/stages/shard.py" in files
    assert "workflow/bioclip_lite/files.py" in files
    assert "workflow/bioclip_lite/errors.py" in files  # through files.py
    assert files == sorted(set(files))


def test_no_stage_imports_another_or_the_engines() -> None:
    from bioclip_lite.params import STAGES

    for stage in STAGES:
        files = closure(f"stages.{stage}")
        others = [f"workflow/bioclip_lite/stages/{other}.py" for other in STAGES if other != stage]
        assert not set(files) & {*others, "workflow/bioclip_lite/provenance.py", "workflow/bioclip_lite/__main__.py"}
        assert not [file for file in files if file.startswith(("workflow/bioclip_lite/engines/", COMMANDS))]


def test_comments_docstrings_and_layout_mean_nothing() -> None:
    plain = b"def f(x):\n    return x + 1\n"
    rewritten = b'"""Module."""\n\n\ndef f(x):  # adds\n    """Doc."""\n    return (x +\n            1)\n'
    assert meaning(plain) == meaning(rewritten)
    assert meaning(plain) != meaning(b"def f(x):\n    return x + 2\n")
    assert meaning(b"def f(): 'only a docstring'") == meaning(b"def f(): pass")
    assert meaning(b"not python (") != meaning(b"not python [")
