"""The card is one that Hugging Face reads, and says the same as metrics.json."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub import ModelCard, ModelCardData

from bioclip_lite.report.content import sample_of
from bioclip_lite.report.model_card import card
from bioclip_lite.stages import evaluate
from bioclip_lite.utils.files import read_json
from support.fake_evaluation import PARAMS, write_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    data: Path = tmp_path_factory.mktemp("card")
    write_data(data)
    evaluate.run(PARAMS, data, "report")
    folder = data / "evaluate"
    return (folder / "MODEL_CARD.md").read_text(), read_json(folder / "metrics.json")


def test_results_are_those_of_metrics(made: tuple[str, dict[str, Any]]) -> None:
    text, metrics = made
    shipped = metrics["variants"]["tfjs"]
    card = ModelCard(text).data
    assert isinstance(card, ModelCardData) and card.eval_results
    results = {result.metric_name: result for result in card.eval_results}
    assert results["Species accuracy"].metric_value == shipped["top1"]["value"]
    assert results["Family accuracy"].metric_value == shipped["per_rank"]["family"]["value"]
    assert results["Correct answers with back-off at 95 %"].metric_value == shipped["back_off"]["right"]["value"]
    assert {result.dataset_name for result in results.values()} == {metrics["protocol"]["id"]}


def test_text_says_the_same(made: tuple[str, dict[str, Any]]) -> None:
    text, metrics = made
    for variant, name in (("teacher", "Teacher"), ("tfjs", "Web model"), ("random", "Random")):
        row = metrics["variants"][variant]["per_rank"]
        line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert all(f"{100 * row[rank]['value']:.1f} (" in line for rank in ("species", "genus", "family"))
    answered = metrics["variants"]["tfjs"]["back_off"]["answered_at"]["species"]["value"]
    assert f"names the species in {100 * answered:.1f} % of the test photographs" in text
    assert "For other species of the label space" in text and "Animalia" in text
    for section in ("Model details", "Uses", "Bias, risks and limitations", "How to get started", "Evaluation"):
        assert f"\n## {section}\n" in text


def test_a_teacher_of_the_hub_is_the_base_model(made: tuple[str, dict[str, Any]]) -> None:
    text, metrics = made
    assert ModelCard(text).data.get("base_model") is None
    nothing = pa.table({"split": [], "licence": [], "attribution": []})
    for name, expected in (
        ("hf-hub:imageomics/bioclip-2", "imageomics/bioclip-2"),
        ("hf-hub:BGLab/BioTrove-CLIP (bioclip.pt)", "BGLab/BioTrove-CLIP"),
        ("ViT-B-16", None),
    ):
        sample = sample_of(nothing, nothing, {"name": name})
        assert ModelCard(card(metrics, sample)).data.get("base_model") == expected
