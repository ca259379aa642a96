"""What a plain YAML scalar means, and the spellings that mean something else to another reader.

Values follow the core schema of YAML 1.2.2, section 10.3.2. A spelling that YAML 1.1 reads differently is a finding, as
an editor or another tool may well be such a reader. `${NAME}` is put in before the meaning is looked for.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from flowbridge.adapters import rule
from flowbridge.adapters.collect import START, Findings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbridge.adapters.collect import Mark

_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_BOOLEANS_1_1: Final = frozenset(
    form for word in ("yes", "no", "on", "off") for form in (word, word.capitalize(), word.upper())
)
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_DISPUTED: Final = (
    (re.compile(r"[-+]?0[0-9]+"), "is octal to some readers and decimal to others"),
    (re.compile(r"0o[0-7]+"), "is octal to some readers and text to others"),
    (re.compile(r"[-+]?0b[01_]+"), "is binary to some readers and text to others"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "is a base-60 number to some readers"),
    (re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+"), "is a number to some readers and text to others"),
    (re.compile(r"(?=.*_)[-+]?[0-9][0-9_]*\.[0-9_]*"), "is a number to some readers and text to others"),
)
_NUMBER_START: Final = frozenset("0123456789+-.")
# A default has no `$`: so a text of many unfinished variables is not searched to its end for each of them.
_VARIABLE: Final = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}$]*))?\}|(\{))")


def _number(text: str, mark: Mark, findings: Findings) -> object:
    """The number that `text` is, or `text` itself."""
    if _INTEGER.fullmatch(text):
        value = int(text, 0) if len(text) <= 20 else 2**64
        if not -(2**63) <= value < 2**63:
            findings.add(
                rule.NUMBER_RANGE, mark, f"{_short(text)} does not fit into 64 bits", f'write "{_short(text)}"'
            )
            return 0
        return value
    for pattern, why in _DISPUTED:
        if pattern.fullmatch(text):
            findings.add(rule.YAML_NUMBER, mark, f"{_short(text)} {why}", _instead(text))
            return text
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isfinite(number):
            return number
    elif not _NOT_FINITE.fullmatch(text):
        return text
    findings.add(rule.NUMBER_RANGE, mark, f"{_short(text)} is not a finite number")
    return 0.0


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _instead(text: str) -> str:
    quoted = f'write "{_short(text)}" for the text'
    digits = text.replace("_", "")
    if re.fullmatch(r"[-+]?[0-9]{1,18}", digits):
        return f"write {int(digits)} for the number, or {quoted[6:]}"
    if text.startswith("0o") and len(text) < 20:
        return f"write {int(text, 8)} for the number, or {quoted[6:]}"
    return quoted


def resolve(text: str, mark: Mark, findings: Findings) -> object:
    """The value of a plain scalar: a text, number, boolean or None."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMBER_START:
        return _number(text, mark, findings)
    if text in _BOOLEANS_1_1:
        meant = "true" if text.lower() in ("yes", "on") else "false"
        message = f"{text} is a boolean to some readers and text to others"
        findings.add(rule.YAML_BOOLEAN, mark, message, f'write {meant} for the boolean, or "{text}" for the text')
    return text


def is_plain_key(text: str) -> bool:
    """True when every YAML reader takes this plain key for text."""
    if text in _WORDS or text in _BOOLEANS_1_1:
        return False
    if text[0] not in _NUMBER_START:
        return True
    patterns = (_INTEGER, _FLOAT, _NOT_FINITE, *(pattern for pattern, _ in _DISPUTED))
    return not any(pattern.fullmatch(text) for pattern in patterns)


def resolve_put_in(text: str) -> object:
    """As `resolve` for a text that came from a variable: no reader disputes it, so when in doubt it is text."""
    trial = Findings("")
    value = resolve(text, START, trial)
    return text if len(trial) else value


def key_rule(text: str) -> rule.Rule:
    """The rule that a plain key breaks which is not text to every reader."""
    if text in _BOOLEANS_1_1:
        return rule.YAML_BOOLEAN
    return rule.KEY_NOT_TEXT


def put_in(text: str, environ: Mapping[str, str], mark: Mark, findings: Findings) -> str:
    """`text` with ``${NAME}`` and ``${NAME:-default}`` replaced; the default also stands for an empty variable."""

    def value_of(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        if match[4]:
            hint = "write ${NAME} or ${NAME:-default}; $$ is a dollar"
            findings.add(rule.ENVIRONMENT, mark, "`${` begins no variable", hint)
            return match[0]
        name, default = match[2], match[3]
        value = environ.get(name)
        if not value and default is not None:
            return default
        if value is None:
            message = f"environment variable {name[:40]} is not set"
            findings.add(rule.ENVIRONMENT, mark, message, f"set it, or write ${{{name[:40]}:-default}}")
            return ""
        if not value.isprintable() and not _is_text(value):
            findings.add(rule.ENVIRONMENT, mark, f"environment variable {name[:40]} is not UTF-8 text")
            return ""
        return value

    return _VARIABLE.sub(value_of, text)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
