"""Codes of languages (ISO 639), as the tables of common names write them."""

_LANGUAGES = {
    "ar": "arabic ara",
    "bg": "bulgarian bul",
    "ca": "catalan catala cat",
    "cs": "czech cesky cestina ces cze",
    "cy": "welsh cymraeg cym wel",
    "da": "danish dansk dan",
    "de": "german deutsch deutscher deutsche deu ger",
    "el": "greek ell gre",
    "en": "english eng",
    "es": "spanish espanol castellano spa",
    "et": "estonian eesti est",
    "eu": "basque euskara eus baq",
    "fi": "finnish suomi fin",
    "fr": "french francais francaise fra fre",
    "ga": "irish gaeilge gle",
    "gl": "galician galego glg",
    "hr": "croatian hrvatski hrv",
    "hu": "hungarian magyar hun",
    "is": "icelandic isl ice",
    "it": "italian italiano ita",
    "ja": "japanese jpn",
    "ko": "korean kor",
    "lt": "lithuanian lietuviu lit",
    "lv": "latvian latviesu lav",
    "nb": "bokmal nob",
    "nl": "dutch nederlands nederlandse nld dut",
    "nn": "nynorsk nno",
    "no": "norwegian norsk nor",
    "pl": "polish polski polska pol",
    "pt": "portuguese portugues por",
    "ro": "romanian romana ron rum",
    "ru": "russian rus",
    "sk": "slovak slovensky slovencina slk slo",
    "sl": "slovenian slovenski slovenscina slv",
    "sr": "serbian srpski srp",
    "sv": "swedish svenska svenskt swe",
    "tr": "turkish turkce tur",
    "uk": "ukrainian ukr",
    "zh": "chinese mandarin zho chi",
}
CODES = {word: code for code, words in _LANGUAGES.items() for word in words.split()}


def language_code(text: str | None) -> str | None:
    """The two-letter code (three where there is none) of "de", "deu", "de-AT" or "German"; None for anything else."""
    code = (text or "").lower().replace("_", "-").partition("-")[0].strip()
    code = CODES.get(code, code)
    return code if code.isascii() and code.isalpha() and len(code) in (2, 3) else None
