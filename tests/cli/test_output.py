"""What is shown, and that a stranger's text cannot do more than be shown."""

from __future__ import annotations

import json

import pytest

from cli.output import printable, say, short, show_json, show_rows

ROWS = [{"id": "a", "status": "failed", "labels": {"x": 1}}, {"id": "b", "status": "done", "labels": {}}]


def test_rows_as_json_are_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows("things", ROWS, ("id",), as_json=True)
    assert json.loads(capsys.readouterr().out) == ROWS


def test_no_rows_as_json_are_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows("things", [], ("id",), as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_no_rows_on_a_terminal_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows("things", [], ("id",))
    assert capsys.readouterr().out == "things: none\n"


def test_a_piped_table_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows("things", [{"id": "x" * 200}], ("id",))
    assert "x" * 200 in capsys.readouterr().out


def test_a_strangers_text_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b[31mred\x07 [bold]not bold[/bold]")
    assert capsys.readouterr().out == "\ufffd[31mred\ufffd [bold]not bold[/bold]\n"


def test_text_in_a_table_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows("things", [{"id": "[/red] \x1b]0;title\x07"}], ("id",))
    shown = capsys.readouterr().out
    assert "[/red]" in shown
    assert "\x1b" not in shown


def test_json_takes_structs_and_keeps_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"text": "Ünïcode 🤷"})
    assert json.loads(capsys.readouterr().out) == {"text": "Ünïcode 🤷"}


def test_long_text_is_cut_to_one_line() -> None:
    assert short("a\n  b " + "c" * 100, 10) == "a b cccccc"[:9] + "…"


def test_printable_keeps_letters_of_every_script() -> None:
    assert printable("Grüße, 你好, مرحبا") == "Grüße, 你好, مرحبا"
