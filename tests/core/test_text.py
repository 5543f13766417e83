"""Text of files as it may be shown."""

from __future__ import annotations

import unicodedata

import pytest
from smoothflow.core.text import MAX_LENGTH, REQUIREMENT, VERSION, printable, shown


@pytest.mark.parametrize("text", ["", "plain [text] \\[x]", "Ångström ± 3 °", "水分子", "é̂", "кДж/моль", "🧪"])
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


def test_no_letter_of_unicode_passes_that_is_hidden_or_controls() -> None:
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    for code in range(0x110000):
        for letter in printable(chr(code)):
            assert unicodedata.category(letter) not in hidden, hex(code)


@pytest.mark.parametrize(
    "code",
    [0x1B, 0x7, 0x9B, 0x202E, 0x2066, 0x200B, 0x200F, 0x61C, 0xFEFF, 0xAD, 0xD800, 0xDC80, 0xE0041, 0xFE0F, 0x3164],
)
def test_hidden_letters_are_replaced_and_not_dropped(code: int) -> None:
    assert printable(f"a{chr(code)}b") == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\t", "\x85", "\u2028", "\u2029", "\v", "\u3000", "\xa0"])
def test_ends_of_lines_and_wide_spaces_become_spaces(end: str) -> None:
    assert printable(f"a{end}b") == "a b"


def test_a_pile_of_accents_is_cut() -> None:
    assert printable("a" + "\u0301" * 1000 + "b") == "a\u0301\u0301b"


def test_long_text_is_shown_in_part() -> None:
    text = "x" * 10 * MAX_LENGTH
    assert len(shown(text)) == MAX_LENGTH + len(" ... ")
    assert shown("short") == "short"


@pytest.mark.parametrize("name", ["smoothflow", "a", "zope.interface", "my_plugin-2"])
def test_names_of_distributions_are_those_of_the_standard(name: str) -> None:
    assert REQUIREMENT.fullmatch(name)


@pytest.mark.parametrize(
    "name",
    ["", "-r", "a b", "a; rm", "a\n", "a[x]", "git+https://x", "../x", "a@x", "$(x)", "`x`", "ä", "a" * 200, "a-"],
)
def test_text_that_is_not_the_name_of_a_distribution_is_recognized(name: str) -> None:
    assert not REQUIREMENT.fullmatch(name)


@pytest.mark.parametrize("version", ["1.2.0", "0.1.dev3+g12ab", "unknown", "1!2.0"])
def test_versions(version: str) -> None:
    assert VERSION.fullmatch(version)
    assert not VERSION.fullmatch(f"{version}; x")
