"""Which licences of photographs allow that they are handed on."""

import re

# Creative Commons' licences in their short names: attribution, then any of non-commercial, no derivatives, share alike.
_ATTRIBUTION = r"by(-nc|-nd|-sa)*"
_VERSION = r"(-\d(-\d)?)?(-[a-z]{2})?(-(international|intl|unported|generic|universal))?"
_CODE = re.compile(rf"cc-?{_ATTRIBUTION}{_VERSION}|cc-?0{_VERSION}|cc-?zero{_VERSION}|publicdomain|no-rights-reserved")
_ADDRESS = re.compile(
    rf"(https?://)?(www\.)?creativecommons\.org/(licenses/{_ATTRIBUTION}|publicdomain/(zero|mark))(/[\w./-]*)?"
)
_WORDS = (  # the long names, as their short ones
    (r"creative commons", "cc"),
    (r"public domain( mark| dedication)?", "publicdomain"),
    (r"non[ -]?commercial", "nc"),
    (r"no[ -]?deriv(ative)?s?( works)?", "nd"),
    (r"share[ -]?alike", "sa"),
    (r"attribution", "by"),
    (r"\b(licen[cs]ed?|the)\b", " "),
)


def may_be_published(licence: str | None) -> bool:
    """True for the public domain, CC0 and all Creative Commons licences with attribution, in the spellings in use.

    Everything else is False: no licence, all rights reserved, and whatever this function does not know.
    """
    text = (licence or "").strip().lower()
    if _ADDRESS.fullmatch(text):
        return True
    for pattern, short in _WORDS:
        text = re.sub(pattern, short, text)
    return bool(_CODE.fullmatch(re.sub(r"[\s_./,-]+", "-", text).strip("-")))
