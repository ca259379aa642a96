"""Text of others on a terminal."""

from __future__ import annotations

import pytest

from flowbridge.cli.output import report_error
from flowbridge.codec.terminal_text import harmless, harmless_plain
from flowbridge.errors import FlowbridgeError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Grüße, 日本, 👩\u200d🚀\n\tnext", "plain, Grüße, 日本, 👩\u200d🚀\n\tnext"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("over\rwritten\x08\x00", "over\\rwritten\\x08\\x00"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("txt.\u202eexe\u2066\u2028", "txt.\\u202eexe\\u2066\\u2028"),
    ],
)
def test_what_commands_a_terminal_is_shown_instead(text: str, shown: str) -> None:
    assert harmless(text) == shown
    assert harmless(shown) == shown


def test_every_text_in_plain_data_is_made_harmless_and_nothing_else_changes() -> None:
    given = {"a\x1b": ["\x07", 1, None, b"\x1b", {"deep": "\x9b"}], "n": 1.5, "t": True}
    assert harmless_plain(given) == {"a\\x1b": ["\\x07", 1, None, b"\x1b", {"deep": "\\x9b"}], "n": 1.5, "t": True}


def test_an_error_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(FlowbridgeError("it said \x1b]0;owned\x07"), as_json=False) == 1
    assert capsys.readouterr().err == "Error: it said \\x1b]0;owned\\x07\n"
