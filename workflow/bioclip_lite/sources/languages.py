"""Codes of languages, as the tables of common names write them."""

_CODES = {  # ISO 639-2 and the names in use -> ISO 639-1
    **{
        "eng": "en",
        "english": "en",
        "deu": "de",
        "ger": "de",
        "german": "de",
        "fra": "fr",
        "fre": "fr",
        "french": "fr",
    },
    **{"spa": "es", "spanish": "es", "ita": "it", "italian": "it", "por": "pt", "portuguese": "pt", "nld": "nl"},
    **{"dut": "nl", "dutch": "nl", "swe": "sv", "dan": "da", "nor": "no", "fin": "fi", "pol": "pl", "rus": "ru"},
    **{"zho": "zh", "chi": "zh", "jpn": "ja", "ces": "cs", "cze": "cs", "hun": "hu", "tur": "tr", "ukr": "uk"},
}


def language_code(text: str | None) -> str | None:
    """The two-letter code (three where there is none) of "de", "deu", "de-AT" or "German"; None for anything else."""
    code = (text or "").lower().replace("_", "-").partition("-")[0].strip()
    code = _CODES.get(code, code)
    return code if code.isascii() and code.isalpha() and len(code) in (2, 3) else None
