"""Licences of photographs by their short codes, and which of them allow that photographs are handed on."""

import re
from functools import lru_cache

CODES = ("cc0", "pd", "by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd")

_VERSION = r"(-\d(-\d)?)?(-[a-z]{2})?(-(international|intl|unported|generic|universal))?"
_BY = rf"(?P<by>by(-nc|-nd|-sa)*){_VERSION}"
_SHORT = re.compile(
    rf"(cc-?){_BY}|(?P<bare>by(-nc|-nd|-sa)+){_VERSION}|(?P<cc0>cc-?0{_VERSION}|cc-?zero{_VERSION}|no-rights-reserved)"
    rf"|(?P<pd>publicdomain|pd|(cc-?)?pdm{_VERSION})"
)
_ADDRESS = re.compile(
    r"(https?://)?(www\.)?creativecommons\.org/"
    r"(licenses/((?P<by>by(-nc|-nd|-sa)*)|(?P<old>publicdomain))|publicdomain/((?P<cc0>zero)|(?P<pd>mark)))"
    r"(/[\w./-]*)?([?#]\S*)?"
)
_WORDS = (  # the long names, as their short ones
    (r"(creative commons )?attribution licen[cs]e", "cc-by"),  # as iNaturalist and Flickr call it
    (r"some rights reserved", " "),
    (r"creative commons", "cc"),
    (r"public domain dedication", "cc0"),
    (r"public domain( mark)?", "publicdomain"),
    (r"non[ -]?commercial", "nc"),
    (r"no[ -]?deriv(ative)?s?( works)?", "nd"),
    (r"share[ -]?alike", "sa"),
    (r"attribution", "by"),
    (r"\b(licen[cs]ed?|the)\b", " "),
)


@lru_cache(maxsize=4096)
def code(text: str | None) -> str | None:
    """One of CODES for a licence as it is written in the wild, whatever its version; None for any other text.

    Understood are Creative Commons' addresses, their short and long names, the names that iNaturalist, GBIF and Flickr
    use ("CC_BY_NC_4_0", "Attribution-NonCommercial License"), and the codes themselves but for a bare "by".
    """
    text = (text or "").strip().lower()
    match = _ADDRESS.fullmatch(text)
    if match is None:
        for pattern, short in _WORDS:
            text = re.sub(pattern, short, text)
        match = _SHORT.fullmatch(re.sub(r"[\s_./,()-]+", "-", text).strip("-"))
    if match is None:
        return None
    found = match.groupdict()
    if found.get("cc0"):
        return "cc0"
    if found.get("pd") or found.get("old"):
        return "pd"
    parts = set((found["by"] or found["bare"]).split("-"))
    name = "-".join(part for part in ("by", "nc", "nd", "sa") if part in parts)
    return name if name in CODES else None


def may_be_published(licence: str | None) -> bool:
    """Whether photographs under a licence may be published.

    Public domain, CC0 and all Creative Commons licences with attribution may, in the spellings in use.
    Everything else may not: no licence, all rights reserved, and any text that is not recognised.
    """
    return code(licence) is not None
