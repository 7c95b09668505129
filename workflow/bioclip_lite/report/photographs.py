"""Sections that show photographs, or count them: confusion of taxa, species with the lowest accuracy, examples."""

from collections.abc import Sequence
from typing import Any

from bioclip_lite.report.content import Confusion, Example, Weak
from bioclip_lite.report.elements import Section, render

_RIGHT, _WRONG = "0,114,178", "213,94,0"  # colours of the diagonal and of the other cells, as of the plots
_DARKEST = 0.55  # opacity of a cell that has all photographs of its row


def confusion_matrix(confusion: Confusion) -> Section:
    """Matrix of the answers for the taxa of one rank; a last column counts answers outside the taxa shown."""
    columns = len(confusion.names) + any(row[-1] for row in confusion.counts)
    rows = [
        (name, [_shaded(count, sum(counts), n == m) for m, count in enumerate(counts[:columns])])
        for n, (name, counts) in enumerate(zip(confusion.names, confusion.counts, strict=True))
    ]
    return Section(
        f"Confusion matrix at the rank of {confusion.rank}",
        render("report/photographs.confusion.html.j2", rank=confusion.rank, rows=rows, columns=columns),
    )


def _shaded(count: int, total: int, right: bool) -> tuple[int, str]:
    """A count and the colour of its cell, darker the larger its share of the row."""
    return count, f"rgba({_RIGHT if right else _WRONG},{_DARKEST * count / total:.3f})"


def weakest_species(weakest: Sequence[Weak]) -> Section:
    """The species that the web model identifies worst, each with a photograph that it gets wrong."""
    return Section("Species with the lowest accuracy", render("report/photographs.weakest.html.j2", weakest=weakest))


def examples_drawn(examples: Sequence[Example]) -> Section:
    """Photographs that the web model gets right, and photographs that it gets wrong."""
    groups: dict[str, Any] = {
        title: [example for example in examples if example.right == right]
        for title, right in (("Correct", True), ("Wrong", False))
    }
    return Section("Examples", render("report/photographs.examples.html.j2", groups=groups))
