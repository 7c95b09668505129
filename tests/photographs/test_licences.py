import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioclip_lite.photographs.licences import CODES, code, may_be_published

SPELLINGS = {
    "cc0": (
        *(
            "CC0",
            "cc0-1.0",
            "CC0 1.0 Universal",
            "CC0_1_0",
            "CC Zero",
            "Public Domain Dedication",
            "No rights reserved",
        ),
        *(
            "http://creativecommons.org/publicdomain/zero/1.0/",
            "https://creativecommons.org/publicdomain/zero/1.0/deed.en",
        ),
    ),
    "pd": (
        *("pd", "public domain", "Public Domain Mark", "PDM 1.0", "CC PDM 1.0"),
        *("creativecommons.org/publicdomain/mark/1.0", "http://creativecommons.org/licenses/publicdomain/"),
    ),
    "by": (
        *("CC-BY", "cc by 4.0", "CC_BY_4_0", "Attribution License", "Creative Commons Attribution 4.0 International"),
        *("https://creativecommons.org/licenses/by/4.0/legalcode", "some rights reserved (CC BY)", "ccby"),
    ),
    "by-sa": ("CC BY-SA 3.0 DE", "Attribution-ShareAlike License", "by-sa", "cc-by-sa-3.0-unported"),
    "by-nd": ("cc-by-nd", "Attribution-NoDerivs License", "http://creativecommons.org/licenses/by-nd/2.0/"),
    "by-nc": (
        *("CC BY-NC 4.0", "cc-by-nc", "CC_BY_NC_4_0", "by-nc", "Attribution-NonCommercial License"),
        *("http://creativecommons.org/licenses/by-nc/4.0/", "https://creativecommons.org/licenses/by-nc/4.0/?ref=x"),
        "Creative Commons Attribution-NonCommercial 4.0 International",
    ),
    "by-nc-sa": ("CC BY-NC-SA 3.0", "Attribution-NonCommercial-ShareAlike License", "by-nc-sa"),
    "by-nc-nd": ("CC-BY-NC-ND", "cc-by-nd-nc 2.0", "Attribution-NonCommercial-NoDerivs License"),
}


@pytest.mark.parametrize(("wanted", "text"), [(k, text) for k, texts in SPELLINGS.items() for text in texts])
def test_spellings_in_use(wanted: str, text: str) -> None:
    assert code(text) == code(f" {text.upper()} ") == wanted
    assert may_be_published(text)


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "by", "nc", "cc", "C", "all rights reserved", "No known copyright restrictions", "UNSPECIFIED"),
        *("UNSUPPORTED", "not CC-BY", "CC-BY or all rights reserved", "attribution", "CC BY-ND-SA 4.0", "gfdl"),
        "http://creativecommons.org/licenses/by/4.0/ but not this photograph",
    ],
)
def test_anything_else_has_no_code(text: str | None) -> None:
    assert code(text) is None and not may_be_published(text)


@given(st.text())
def test_any_text(text: str) -> None:
    assert code(text) in (None, *CODES)


def test_codes_are_spellings_of_themselves() -> None:
    assert [code(name) for name in CODES if name != "by"] == [name for name in CODES if name != "by"]
