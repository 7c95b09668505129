"""What is drawn by hash."""

from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.utils.randomness import digest, drawn


@given(keys=st.lists(st.sampled_from("abcdefgh"), max_size=20), count=st.integers(0, 25))
def test_drawn_are_the_first_by_hash(keys: list[str], count: int) -> None:
    in_order = sorted(range(len(keys)), key=lambda i: digest("seed", 1, keys[i]))
    assert drawn(iter(keys), count, "seed", 1) == in_order[:count]
