"""Text that others wrote, so that it does not command the terminal on which it is shown.

Escape sequences begin with a control character (ECMA-48): U+001B, or one of U+0080..U+009F by itself. Marks that turn
the direction of writing make a line look like another one (Unicode Technical Report 36, section 2.5).
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

_COMMANDS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # all but tabs and line ends
)


def harmless(text: str) -> str:
    """The text with control characters shown as ``\\x1b``; ends of lines and tabs stay. Idempotent."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def harmless_plain(value: Any) -> Any:
    """Plain data, each text in it made harmless, those of keys too."""
    if type(value) is str:
        return harmless(value)
    if type(value) is dict:
        items = cast("dict[object, object]", value).items()
        return {harmless_plain(key): harmless_plain(one) for key, one in items}
    if type(value) is list:
        return [harmless_plain(one) for one in cast("list[object]", value)]
    return value
