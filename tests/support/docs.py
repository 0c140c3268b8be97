"""The code blocks of the documents, for the tests that run them."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(document: str, language: str) -> list[str]:
    """The code of every block of that language, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [code for tag, code in _FENCE.findall(text) if tag == language]


def table_rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the table whose first column has that heading, row by row."""
    text = (ROOT / document).read_text(encoding="utf-8")
    lines = text[text.index(f"| {heading} |") :].splitlines()[2:]
    rows = takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
