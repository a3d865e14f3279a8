"""Names as rows of letters: NameData's files, or the surnames inside the Faker package."""

import importlib
import importlib.metadata
import re
import string
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ALPHABET = string.ascii_letters + " .,;'-"
_WHOLE = str.maketrans(  # letters that NFD does not take apart
    {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d"}
    | {"Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i", "’": "'"}
)
JUNK = "To The First Page"  # 24 lines of NameData's Russian.txt: a web page's link
LOCALES = {
    "Croatian": "hr_HR",
    "Czech": "cs_CZ",
    "Danish": "da_DK",
    "Dutch": "nl_NL",
    "English": "en_GB",
    "Estonian": "et_EE",
    "Finnish": "fi_FI",
    "French": "fr_FR",
    "German": "de_DE",
    "Irish": "ga_IE",
    "Italian": "it_IT",
    "Latvian": "lv_LV",
    "Norwegian": "no_NO",
    "Portuguese": "pt_PT",
    "Slovak": "sk_SK",
    "Slovenian": "sl_SI",
    "Spanish": "es_ES",
    "Swedish": "sv_SE",
}


def fold(text: str) -> str:
    """Accents off (Unicode NFD), letters without a decomposition spelled out (ß: ss), every space a plain one."""
    split = unicodedata.normalize("NFD", " ".join(text.split()).translate(_WHOLE))
    return "".join(c for c in split if unicodedata.category(c) != "Mn")


def encode(names: Sequence[str]) -> np.ndarray:
    """uint8 [n, longest]: each letter's place in ALPHABET, len(ALPHABET) past a name's end."""
    x = np.full((len(names), max(map(len, names))), len(ALPHABET), np.uint8)
    for row, name in zip(x, names, strict=True):
        row[: len(name)] = [ALPHABET.index(letter) for letter in name]
    return x


def read(folder: Path, clean: bool) -> dict[str, list[str]]:
    """Language -> names of a folder's LANGUAGE.txt files, UTF-8, one name a line; cleaned as `tidy` says."""
    found = {}
    for file in sorted(folder.glob("*.txt")):
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"names: {file} is not UTF-8: {error}") from error
        found[file.stem] = tidy(lines, str(file), clean)
    if len(found) < 2:
        raise ValueError(f"names: {folder} holds {len(found)} .txt files, want one a language and at least 2")
    return found


def embedded(clean: bool) -> tuple[dict[str, list[str]], str]:
    """(language -> surnames, their source) of 18 locales of the Faker package in Latin script."""
    found = {}
    for language, locale in LOCALES.items():
        provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        found[language] = tidy(list(provider.last_names), f"Faker's {locale}", clean)
    return found, f"Faker {importlib.metadata.version('faker')}, surnames of {len(found)} locales (not NameData)"


def tidy(lines: Sequence[str], where: str, clean: bool) -> list[str]:
    """The names in lines, folded to ALPHABET.

    clean: without empty lines and JUNK, cut at the first digit or mark (/ : , ;) that is a slip of the pen, each name
    once. Not clean: every line, as published; characters that cannot be folded are left out. ValueError names the
    line that holds no name, the character outside the alphabet (clean), and the language with fewer than 2 names.
    """
    names = []
    for number, line in enumerate(lines, 1):
        name = fold(line)
        if clean:
            name = re.split("[0-9/:,;]", name)[0].strip()
            if name in ("", JUNK):
                continue
            if strange := set(name) - set(ALPHABET):
                raise ValueError(
                    f"names: {where} line {number}, {line!r}: {min(strange)!r} is none of the {len(ALPHABET)} letters "
                    f"(ASCII and {ALPHABET[52:]!r}; accents are folded)"
                )
        else:
            name = "".join(c for c in name if c in ALPHABET)
            if not name:
                raise ValueError(f"names: {where} line {number}, {line!r}, holds no letter (clean=True leaves it out)")
        names.append(name)
    names = list(dict.fromkeys(names)) if clean else names
    if len(names) < 2:
        raise ValueError(f"names: {where} holds {len(names)} names, want at least 2: half of them train")
    return names
