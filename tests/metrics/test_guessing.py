import re

import pytest

from bioclip_lite.metrics.guessing import ENOUGH, few_photographs, is_weak, refuse_weak
from bioclip_lite.utils.errors import UserError


@pytest.mark.parametrize(
    ("right", "photographs", "guessing", "weak"),
    [
        (3, 200, 1 / 314, True),  # a small CLIP from nothing on 2,000 real photographs of 314 taxa
        (587, 640, 1 / 64, False),  # the built-in sample
        (500, 10_000, 1e-4, False),  # 1 in 20 of 10,000 taxa, 500 times what guessing names
        (300, 10_000, 1e-4, True),  # better than guessing beyond doubt, and still of no use
        (5, 20, 0.25, True),  # no better than guessing, and wrong more often than right
        (12, 20, 0.25, False),
        (580, 1000, 0.6, False),  # one taxon is on most photographs
        (0, 4, 0.2, False),  # bad luck of one that is right half the time
        (0, 5, 0.2, True),
    ],
)
def test_a_weak_teacher_is_told_from_bad_luck(right: int, photographs: int, guessing: float, weak: bool) -> None:
    assert is_weak(right, photographs, guessing) == weak


def test_the_message_has_the_figures_and_the_ways_out() -> None:
    refuse_weak("the teacher", 587, 640, 1 / 64)
    with pytest.raises(UserError) as refused:
        refuse_weak("after epoch 5 of 9 this teacher", 3, 200, 1 / 314)
    said = str(refused.value)
    assert said.startswith("after epoch 5 of 9 this teacher names 1.5% of split val right (3 of 200 photographs), ")
    assert "guessing 0.3%" in said and "teacher.kind: pretrained" in said and "teacher.allow_weak" in said
    assert "\n" not in said and len(said) < 500  # what the terminal shows of a line


def test_a_warning_counts_photographs_per_taxon() -> None:
    assert few_photographs(ENOUGH * 314, 314) is None
    warning = few_photographs(2000, 314)
    assert warning and re.search(r"2,000 photographs of 314 taxa, 6 each; with fewer than 50", warning)
