"""The choice of metadata columns: against a plain computation, and on the 10,000 categories of iNaturalist 2021."""

from itertools import combinations

import pytest
from open_clip import SimpleTokenizer

from bioclip_lite.taxa import taxonomy
from bioclip_lite.texts import lit_columns
from bioclip_lite.texts.text_types import ALL_COLUMNS, caption


def letters(text: str) -> list[int]:
    """Word pieces that are easily counted."""
    return [ord(letter) for letter in text.replace(" ", "")]


def species(genus: str, epithet: str, name: str | None, family: str = "F") -> lit_columns.Class:
    return ("K", "P", "C", "O", family, genus, epithet), name, None


def test_columns_that_all_share_stay_out() -> None:
    classes = [species(f"G{i // 2}", "abcdefgh"[i] * 4, "ijklmnop"[i] * 6) for i in range(8)]
    columns, distance = lit_columns.choose_columns(classes, letters)
    assert columns == ("common_name",) and distance == 1.0  # of two as good, the one with fewer columns, then the first


def test_columns_come_in_where_they_keep_classes_apart() -> None:
    # Epithets differ most, but two are the same; common names cannot tell these two apart, the genus can.
    classes = [
        species("Gg", "abc", "xx"),
        species("Gg", "def", "xx"),
        species("Hh", "abc", "xx"),
        species("Hh", "ijk", "xx"),
    ]
    columns, _ = lit_columns.choose_columns(classes, letters)
    assert columns == ("genus", "species")


def test_a_budget_is_kept() -> None:
    classes = [species("G", "abc"[i] * 9, "xyz"[i] * 3) for i in range(3)]
    frame = len(letters("A photo of a")) + 2
    assert lit_columns.choose_columns(classes, letters, frame + 3)[0] == ("common_name",)
    # Where only long sentences keep classes apart, the best that fits is taken; where none fits, the shortest.
    same = [species("G", "abc"[i] * 9, "xxx") for i in range(3)]
    columns, _ = lit_columns.choose_columns(same, letters, frame + 3)
    assert "species" not in columns
    assert lit_columns.choose_columns(same, letters, 1)[1] >= 0


def test_the_distance_is_that_of_the_captions() -> None:
    classes = [species("Gaa", "bb", "ccd"), species("Gaa", "be", None), species("Hff", "bb", "cdd", "FF")]
    said = {}
    for size in range(1, 10):
        for columns in combinations(ALL_COLUMNS, size):
            rows = [
                {**dict(zip(taxonomy.RANKS, p, strict=True)), "common_name": n, "supercategory": g}
                for p, n, g in classes
            ]
            bags = [sorted((c, x, i) for c in columns for i, x in _numbered(row[c])) for row in rows]
            nearest = [min(_jaccard(set(a), set(b)) for j, b in enumerate(bags) if j != i) for i, a in enumerate(bags)]
            distinct = len({caption(path, name, "lit", columns).lower() for path, name, _ in classes})
            said[columns] = (distinct, round(sum(nearest) / 3, 9))
    best = max(said.values())
    columns, distance = lit_columns.choose_columns(classes, letters)
    assert said[columns] == best
    assert distance == pytest.approx(best[1])


def _numbered(text: str | None) -> list[tuple[int, str]]:
    """A multiset as a set: the i-th copy of each letter."""
    letters = text or ""
    return [(letters[:place].count(letter), letter) for place, letter in enumerate(letters)]


def _jaccard(a: set, b: set) -> float:
    return 1 - len(a & b) / len(a | b) if a | b else 0.0


def test_10000_taxa_get_10000_captions_within_the_budget() -> None:
    """As many taxa as iNat 2021 has, named by syllables: genera of ten species, families of ten genera."""
    syllables = [a + b for a in "bdfglmnprst" for b in ("a", "e", "i", "o", "u")]

    def word(number: int, ending: str) -> str:
        """A word of its own for every number."""
        base = len(syllables)
        return "".join(syllables[number // base**place % base] for place in range(3)) + ending

    classes = [
        (
            (
                "Animalia",
                "Chordata",
                word(n // 5000, "ia"),
                word(n // 1000, "iformes"),
                word(n // 100, "idae").title(),
                word(n // 10, "us").title(),
                word(n % 400, "ensis"),
            ),
            f"{word(n * 31 % 997, 'y')} {word(n // 10, 'bird')}" if n % 3 else None,
            "Birds",
        )
        for n in range(10_000)
    ]
    tokenizer = SimpleTokenizer(context_length=100)
    columns, distance = lit_columns.choose_columns(classes, tokenizer.encode)
    assert {"genus", "species"} <= set(columns)
    assert 0 < distance < 1
    captions = [caption(path, name, "lit", columns) for path, name, _ in classes]
    assert len(set(captions)) == 10_000
    assert int((tokenizer(captions) != 0).sum(1).max()) <= lit_columns.BUDGET
    assert lit_columns.choose_columns(classes, tokenizer.encode) == (columns, distance)
