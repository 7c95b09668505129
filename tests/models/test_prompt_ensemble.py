import pytest

from bioclip_lite.models.prompt_ensemble import described, parse_described
from bioclip_lite.texts.text_types import TYPES


@pytest.mark.parametrize("openai", [False, True])
def test_what_a_table_says_of_its_prompts_can_be_read_again(openai: bool) -> None:
    assert [parse_described(described(kind, openai)) for kind in TYPES] == [(kind, openai) for kind in TYPES]


@pytest.mark.parametrize("prompt", ["sci in 7 templates", "", "a photo of {}"])
def test_other_prompts_are_not_taken_for_ours(prompt: str) -> None:
    with pytest.raises(ValueError, match="prompt"):
        parse_described(prompt)
