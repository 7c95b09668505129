from pathlib import Path

import pytest

from bioclip_lite.planning import survey
from bioclip_lite.sources.recognition import Form
from support.photographs import DAISY, GANNET, encoded, picture, row, write_folder


def found_in(folder: Path, **more: float) -> survey.Survey:
    return survey.survey(survey.section(Form("folder", folder, "")), None, **more)


def test_a_survey_counts_what_the_source_lists(tmp_path: Path) -> None:
    photographs = [row(f"{i}.jpg", DAISY, licence="CC-BY", common_name="daisy") for i in range(8)]
    photographs += [row("g.jpg", GANNET, licence="mine"), row("h.jpg", (None,) * 7), row("i.jpg", GANNET)]
    found = found_in(write_folder(tmp_path, photographs))
    assert (found.photographs, found.unnamed, len(found.taxa), found.common_names) == (10, 1, 2, 8)
    assert dict(found.licences) == {"by": 8, "other": 1, "none stated": 1}
    assert len(found.drawn) == 10 and not found.on_the_web


def test_a_survey_stops_in_time_and_says_so(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [row(f"{i}.jpg", DAISY) for i in range(50)])
    found = found_in(folder, seconds=0.0)
    assert not found.complete and found.photographs < 50


def test_photographs_are_drawn_whatever_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "OPENED", 5)
    names = [f"{i}.jpg" for i in range(40)]
    first, second = (
        found_in(write_folder(tmp_path / str(n), [row(name, DAISY, content=b"") for name in order])).drawn
        for n, order in enumerate((names, names[::-1]))
    )
    assert first == second and len(first) == 5


def test_a_look_opens_photographs_and_counts_what_it_cannot(tmp_path: Path) -> None:
    large = encoded(picture("large", size=(1200, 900)))
    photographs = [row(f"{i}.jpg", DAISY, content=large) for i in range(3)]
    photographs += [row("bad.jpg", DAISY, content=b"none"), row("gone.jpg", DAISY, content=None)]
    folder = write_folder(tmp_path, photographs)
    index = survey.section(Form("folder", folder, ""))
    seen = survey.look(index, survey.survey(index, None), 512)
    assert (seen.opened, seen.sides, seen.size) == (3, (900, 1200), len(large))
    assert seen.unusable.total() == 2 and seen.unusable["not an image"] == 1
    assert seen.packed and len(seen.packed) < len(large) and seen.inspect > 0 and seen.pack > 0
