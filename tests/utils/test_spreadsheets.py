import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.utils.spreadsheets import guarded, unguarded


@pytest.mark.parametrize("text", ["=HYPERLINK(0)", "+49 30 1", "-Ann", "@ann", "\t=1", "\r=1", "'=1", "'Ann'"])
def test_what_a_spreadsheet_would_run_begins_with_an_apostrophe(text: str) -> None:
    assert guarded(text) == f"'{text}" and unguarded(guarded(text)) == text


@given(st.text())
def test_nothing_is_lost(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert guarded(text)[:1] not in ("=", "+", "-", "@", "\t", "\r")


def test_other_text_stays_as_it_is() -> None:
    assert guarded("A. Recorder (CC BY) = -1") == "A. Recorder (CC BY) = -1" and guarded("") == ""
