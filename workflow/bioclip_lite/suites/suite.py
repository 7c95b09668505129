"""Test sets listed in evaluate.suites, independent of their format on disk.

``formats`` and ``imagenet`` read them, ``answering`` runs the models, ``scoring`` scores the answers. To add a format,
write a function in ``formats`` and name it in ``FORMATS``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bioclip_lite.sources.sample import Reject
from bioclip_lite.taxa import taxonomy

# Question to the model -> name of the first figure of a suite.
HEADLINES = {"class": "top1", "choice": "choice", "anomaly": "aupr"}


@dataclass(frozen=True)
class Class:
    """One of the names that a model chooses among."""

    name: str  # as the set writes it
    path: taxonomy.Path | None = None  # of a name that spells a taxon
    common_name: str | None = None
    lemmas: str | None = None  # of WordNet, "tench, Tinca tinca"


@dataclass(frozen=True)
class Photograph:
    """One photograph of a suite and what counts as a right answer to it."""

    locator: str
    right: tuple[int, ...]  # numbers in ``Suite.classes``; none for what is none of them
    own: int  # its class as the set itself counts classes: what a macro average weighs alike
    group: str  # photographs of one group are resampled together
    among: tuple[int, ...] | None = None  # the classes that it is a choice among; None: all


@dataclass(frozen=True)
class Suite:
    """A test set, read but for its photographs."""

    classes: Sequence[Class]
    photographs: Sequence[Photograph]
    rejects: Sequence[Reject]
    read: Callable[[str], bytes]  # the file of a locator; OSError says why there is none
    rules: str  # what is asked and what counts as right, in a sentence
    question: str = "class"  # one of HEADLINES
    cluster: str = "class"  # what a group is: class or observation
    templates: tuple[str, ...] = ()  # the set's own, with {c} for the name
    border: int = 0  # pixels to cut away on each side
    left_out: int = 0  # photographs that the rules leave out
