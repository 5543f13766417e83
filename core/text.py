"""Text from files, plug-ins and other programs, as it may be shown."""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH = 2000
"""Characters of one text that are shown."""

MAX_MARKS = 2
"""Accents and the like on one letter."""

INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
"""Characters that show nothing, though Unicode does not call them format characters."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

REQUIREMENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", re.ASCII)
"""Names of distributions (PEP 508), of which a command may be made."""

VERSION = re.compile(r"[A-Za-z0-9.+!_-]{1,64}", re.ASCII)
"""Whatever a version may look like (PEP 440, and older ones)."""


def printable(text: str) -> str:
    """Text on one line, without what could control a terminal, hide, or turn other text around.

    Line ends and wide spaces become spaces; control and format characters (escape sequences, marks of direction,
    zero-width ones), surrogates, and what Unicode does not define become replacement characters; and of a pile of
    accents two are left.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    n_marks = 0
    for letter in text.replace("\r\n", "\n"):
        n_marks = n_marks + 1 if unicodedata.category(letter) in ("Mn", "Me") else 0
        if letter in "\n\r\t\v\f\x85\u2028\u2029" or unicodedata.category(letter) == "Zs":
            shown.append(" ")
        elif not letter.isprintable() or letter in INVISIBLE:
            shown.append(REPLACEMENT)
        elif n_marks <= MAX_MARKS:
            shown.append(letter)
    return "".join(shown)


def shortened(text: str, length: int = MAX_LENGTH) -> str:
    """The text, its middle left out where it is longer."""
    return text if len(text) <= length else f"{text[: length // 2]} ... {text[-length // 2 :]}"


def shown(text: str, length: int = MAX_LENGTH) -> str:
    """Text as a terminal, a log or an error may show it: printable and of bounded length."""
    return printable(shortened(text, length))
