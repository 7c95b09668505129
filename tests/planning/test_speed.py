import pytest

from bioclip_lite.planning import speed


def test_rates_are_seconds_per_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pixels and more layers take longer, by what the clock of this process says."""
    monkeypatch.setattr(speed, "_SECONDS", 0.05)
    assert 0 < speed.view_seconds(speed.noise((256, 192))) < speed.view_seconds(speed.noise((3000, 2000)))
    name = "mobilenetv4_conv_small_035"
    small, large = (speed.step_seconds(name, {}, size, 4) for size in (64, 192))
    assert 0 < small < large
    assert 0 < speed.embedding_seconds("resnet10t") < speed.embedding_seconds("resnet50")
