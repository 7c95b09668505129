import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bioclip_lite.indexing import duplicates
from bioclip_lite.indexing.duplicates import Twin, fingerprint, look_alikes, settle
from bioclip_lite.photographs.images import decode
from bioclip_lite.utils.randomness import generator
from support.photographs import encoded, picture


def scene(seed: int) -> Image.Image:
    """As in a photograph, details of all sizes."""
    rng = generator("scene", seed)
    layers = np.zeros((300, 400, 3))
    for cells in (3, 6, 12, 24, 48):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layers += np.asarray(noise.resize((400, 300), Image.Resampling.BICUBIC), float) / cells**0.5
    return Image.fromarray((layers / layers.max() * 220).astype(np.uint8))


def distance(one: Image.Image, other: Image.Image) -> tuple[int, int]:
    a, b = fingerprint(one), fingerprint(other)
    assert a is not None and b is not None
    return (a[0] ^ b[0]).bit_count(), (a[1] ^ b[1]).bit_count()


def test_the_hashes_are_those_of_the_library() -> None:
    image = picture("one", size=(32, 32))
    grey = image.convert("L")
    found = fingerprint(image)
    assert found is not None
    assert [f"{number:016x}" for number in found] == [str(imagehash.phash(grey)), str(imagehash.dhash(grey))]


@pytest.mark.parametrize("seed", range(5))
def test_scaled_and_encoded_copies_are_close_and_other_pictures_are_not(seed: int) -> None:
    image = scene(seed)
    for copy in (
        decode(encoded(image, quality=40)),
        image.resize((200, 150)),
        image.resize((640, 480)),
        Image.eval(image, lambda value: min(255, int(1.1 * value) + 5)),
    ):
        pixels, differences = distance(image, copy)
        assert pixels <= 4 and differences <= 10
    assert distance(image, scene(seed + 100))[0] > 10


@pytest.mark.parametrize("colour", ["white", "black", "#345678"])
def test_a_plain_picture_has_no_hash(colour: str) -> None:
    assert fingerprint(Image.new("RGB", (80, 60), colour)) is None
    noise = np.random.default_rng(0).normal(128, 1, (60, 80, 3)).clip(0, 255).astype(np.uint8)
    assert fingerprint(Image.fromarray(noise)) is None
    step = Image.new("RGB", (64, 64), "white")
    step.paste("black", (0, 0, 32, 64))  # its transform is zero nearly everywhere
    found = fingerprint(step)
    assert found is None or found[0].bit_count() == 32


def all_pairs(phash: np.ndarray, dhash: np.ndarray, bits: int) -> np.ndarray:
    """Groups by comparing each with each."""
    group = np.arange(len(phash))
    for i in range(len(phash)):
        for j in range(i):
            if np.bitwise_count(phash[i] ^ phash[j]) <= bits and np.bitwise_count(dhash[i] ^ dhash[j]) <= bits + 6:
                group[group == max(group[i], group[j])] = min(group[i], group[j])
    return group


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), bits=st.sampled_from([0, 1, 3, 4, 8, 16]), number=st.integers(0, 60))
def test_the_search_finds_what_comparing_all_pairs_finds(seed: int, bits: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    phash, dhash = rng.integers(0, 2**64, (2, number), dtype=np.uint64)
    for i in range(number // 2):  # some copies, with as many bits changed as are just allowed, and one more
        flips = rng.choice(64, min(64, bits + int(rng.integers(0, 2))), replace=False)
        phash[number - 1 - i] = phash[i] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=0)
        dhash[number - 1 - i] = dhash[i] ^ np.uint64(int(rng.integers(0, 2**10)))
    assert (look_alikes(phash, dhash, bits) == all_pairs(phash, dhash, bits)).all()


def test_what_all_photographs_share_neither_joins_them_nor_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    count = np.bitwise_count

    def counting(values: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += values.size
        return count(values)

    monkeypatch.setattr(np, "bitwise_count", counting)
    number = 20_000
    rng = np.random.default_rng(0)
    dhash = rng.integers(0, 2**64, number, dtype=np.uint64)
    groups = look_alikes(np.full(number, 0xF0F0F0F0F0F0F0F0, np.uint64), dhash, 4)  # one pHash, but different dHashes
    assert len(np.unique(groups)) > number - 5
    assert compared < 5 * 2 * number * duplicates._NEIGHBOURS  # of 200 million pairs, in each of five tables
    compared = 0
    same = np.full(number, 7, np.uint64)
    assert (look_alikes(same, same, 4) == 0).all()  # copies of one photograph
    assert compared == 0


def test_a_million_photographs_need_few_comparisons() -> None:
    assert len(duplicates._masks(4, 1_000_000)) <= 15
    assert all(int(mask).bit_count() >= 20 for mask in duplicates._masks(4, 1_000_000))


# ----------------------------------------------------------------------------------------------------- joining, leaving


def test_observations_with_near_duplicates_are_joined_along_chains() -> None:
    twins = [Twin(1, 1, "b"), Twin(2, 1, "c"), Twin(3, 3, "c"), Twin(4, 3, "a"), Twin(5, 5, "x"), Twin(6, 5, "y")]
    joined, left_out = settle(twins, {})
    assert joined == {"a": "a", "b": "a", "c": "a", "x": "x", "y": "x"} and not left_out


def test_the_photograph_that_is_held_out_stays() -> None:
    twins = [Twin(1, 1, "a"), Twin(2, 1, "b"), Twin(3, 1, "c")]
    joined, left_out = settle(twins, {"a": "train", "b": "test", "c": "val"})
    assert left_out == {1: 2, 3: 2} and joined == {"a": "a", "b": "b", "c": "c"}


def test_an_observation_between_two_stated_splits_goes_to_the_one_held_out() -> None:
    # u, which states nothing, looks like t in test and, by another photograph, like r in train
    twins = [Twin(1, 1, "t"), Twin(2, 1, "u"), Twin(3, 3, "u"), Twin(4, 3, "r")]
    joined, left_out = settle(twins, {"t": "test", "r": "train"})
    assert joined == {"t": "t", "u": "t", "r": "r"} and left_out == {4: 3}


def test_what_has_no_label_goes_if_it_looks_like_what_has_one() -> None:
    twins = [Twin(1, 1, "u"), Twin(2, 1, "dealt"), Twin(3, 3, "v"), Twin(4, 3, "t"), Twin(5, 5, "u"), Twin(6, 5, "v")]
    joined, left_out = settle(twins, {"u": "unlabelled", "v": "unlabelled", "t": "test"})
    assert left_out == {1: 2, 3: 4}
    assert joined["dealt"] == "dealt" and joined["t"] == "t" and joined["u"] == joined["v"] == "u"


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abcdef")), max_size=14),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([*filter(None, duplicates.PRECEDENCE)])),
)
def test_no_near_duplicates_stay_in_two_splits(pairs: list[tuple[int, str]], stated: dict[str, str]) -> None:
    twins = [Twin(number, *pair) for number, pair in enumerate(pairs)]
    joined, left_out = settle(twins, stated)
    assert set(joined) == {twin.observation for twin in twins}
    split = {name: stated.get(first, first) for name, first in joined.items()}
    for name, first in joined.items():
        assert stated.get(name, stated.get(first)) == stated.get(first)
    for alike in range(6):
        here = [twin for twin in twins if twin.alike == alike]
        kept = [twin for twin in here if twin.photograph not in left_out]
        assert len({split[twin.observation] for twin in kept}) <= 1
        assert bool(kept) == bool(here)
    for gone, other in left_out.items():
        assert stated[twins[gone].observation] and other not in left_out
    again, gone_again = settle(twins[::-1], stated)
    assert again == joined and set(gone_again) == set(left_out)
