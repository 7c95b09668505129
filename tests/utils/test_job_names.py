"""One grammar names the jobs of all stages, on the command line, in rules, in logs and in messages."""

import importlib
import re

import pytest

from bioclip_lite.params.jobs import PARTS
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.stage_names import STAGES
from support.checkout import ROOT

FORMS = {stage: getattr(importlib.import_module(f"bioclip_lite.stages.{stage}"), "JOBS", ()) for stage in STAGES}


@pytest.mark.parametrize(
    ("stage", "name", "form", "fields"),
    [
        ("shard", "manifests", "manifests", {}),
        ("shard", "train-00000", "{shard}", {"shard": "train-00000"}),
        ("caption", "coca/train-00000", "{captioner}/{shard}", {"captioner": "coca", "shard": "train-00000"}),
        ("teacher", "model", "{teacher}", {"teacher": "model"}),
        ("teacher", "features/b2/val-00001", "features/{teacher}/{shard}", {"teacher": "b2", "shard": "val-00001"}),
        ("logits", "taxa", "taxa", {}),
        ("logits", "second/taxa", "{teacher}/taxa", {"teacher": "second"}),
        ("logits", "second/test-00000", "{teacher}/{shard}", {"teacher": "second", "shard": "test-00000"}),
        (
            "logits",
            "captions/coca/val-00000",
            "captions/{captioner}/{shard}",
            {"captioner": "coca", "shard": "val-00000"},
        ),
        ("evaluate", "report", "report", {}),
        ("evaluate", "teacher-second", "{variant}", {"variant": "teacher-second"}),
        ("evaluate", "suites/rare_birds-2", "suites/{suite}", {"suite": "rare_birds-2"}),
        ("evaluate", "suite:rare_birds-2", "suites/{suite}", {"suite": "rare_birds-2"}),  # an earlier version's name
    ],
)
def test_a_name_has_one_form(stage: str, name: str, form: str, fields: dict[str, str]) -> None:
    assert job_names.parse(stage, name, FORMS[stage]) == (form, fields)


@pytest.mark.parametrize(
    ("stage", "name", "jobs"),
    [
        ("shard", "train-0", "its jobs are manifests, sizes, <shard>"),
        ("caption", "coca/", "its jobs are columns, <shard>, <captioner>/model, <captioner>/<shard>"),
        ("teacher", "features/model", "its jobs are <teacher>, features/<teacher>/<shard>"),
        ("logits", "captions/train-00000/x", "<teacher>/texts, <teacher>/<shard>, captions/<captioner>/<shard>"),
        ("distill", "students", "its jobs are student, finetune, control"),
        ("prune", "train-00000", "stage prune is one job"),
    ],
)
def test_another_name_is_an_error_that_lists_the_forms(stage: str, name: str, jobs: str) -> None:
    with pytest.raises(UserError, match=re.escape(jobs)) as error:
        job_names.parse(stage, name, FORMS[stage])
    assert repr(name) in str(error.value)


def test_parameters_and_stages_know_the_same_jobs() -> None:
    assert {stage: set(forms) for stage, forms in FORMS.items() if forms} == {s: set(p) for s, p in PARTS.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_rules_run_jobs_by_their_names_and_log_to_files_of_these_names(stage: str) -> None:
    text = (ROOT / f"workflow/rules/{stage}.smk").read_text()
    rules = re.findall(r'log:\s+"logs/(.+?)\.log".*?shell:\s+"python -m (.+?) [->]', text, re.DOTALL)
    jobs = [(log, command.split()[1:]) for log, command in rules if command.startswith("bioclip_lite ")]
    assert len(jobs) == text.count('"python -m bioclip_lite ')
    forms = set()
    for log, (name, *job) in jobs:
        for cache in ("", "{teacher}/"):  # the rules of the first teacher's cache make those of others too
            form = "".join(job).replace("{wildcards.", "{").replace("{cache}", cache)
            assert name == stage and log.replace("{cache}", cache) == f"{stage}/{form or stage}"
            forms.add("{teacher}" if form == "model" else form)  # the first teacher has a rule of its own
    assert forms == set(FORMS[stage] or [""])
