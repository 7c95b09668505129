"""Tell a teacher that hardly knows the taxa, before hours go into a student that cannot know more."""

from bioclip_lite.utils.errors import UserError

ENOUGH = 50  # photographs of a taxon that a CLIP needs to learn from nothing: the built-in sample has 63
_BEYOND = 0.05  # share of what guessing leaves that a teacher has to name right
_CONFIDENCE = 0.95
_OTHERS = "A published teacher (teacher.kind: pretrained; docs/teachers.md) knows most organisms."


def is_weak(right: int, photographs: int, guessing: float) -> bool:
    """Whether a teacher that names ``right`` of ``photographs`` hardly knows them, and not by bad luck.

    ``guessing`` is the share that one and the same answer, the best one, names right: at least 1 of the number of taxa.
    With 95 % confidence (Clopper-Pearson, one-sided) its share lies under that of guessing and a twentieth of the rest.
    If it cannot be told from guessing (binomial test, 5 %), it is enough that it is wrong more often than right. A
    teacher that may be right more often than wrong is never weak, so fewer than five photographs decide nothing.
    """
    from scipy.stats import binomtest  # here, so that Snakemake, which only warns of few photographs, starts faster

    better = binomtest(right, photographs, guessing, "greater").pvalue <= 1 - _CONFIDENCE
    at_most = binomtest(right, photographs, alternative="less").proportion_ci(_CONFIDENCE).high
    return bool(at_most < (min(0.5, guessing + _BEYOND * (1 - guessing)) if better else 0.5))


def refuse_weak(teacher: str, right: int, photographs: int, guessing: float) -> None:
    """Raise UserError for a teacher that ``is_weak`` on split val; ``teacher`` names it in the message."""
    if is_weak(right, photographs, guessing):
        raise UserError(
            f"{teacher} names {right / photographs:.1%} of split val right ({right} of {photographs} photographs), "
            f"guessing {guessing:.1%}; no student learns more from it. {_OTHERS} To go on with this one, set "
            "teacher.allow_weak to true"
        )


def few_photographs(photographs: int, taxa: int) -> str | None:
    """A warning where a CLIP is to be trained on too few photographs of its taxa; None where they may do."""
    if photographs >= ENOUGH * taxa:
        return None
    return (
        f"teacher.kind is train: a teacher learns from nothing but your {photographs:,} photographs of {taxa:,} taxa, "
        f"{photographs / taxa:.0f} each; with fewer than {ENOUGH} each it is likely to know few of them. {_OTHERS}"
    )
