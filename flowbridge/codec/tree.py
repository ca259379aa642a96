"""Trees of plain values as CBOR (RFC 8949): what comes back is equal and of the same types, or it is refused.

    None, bool, int, float, str, bytes      as CBOR has them; an int beyond 64 bits is a bignum (tags 2 and 3)
    list, dict with str or bytes keys       array, map; the order of a dict is kept
    dict with int keys                      tag 0x666C6F70 of an array: key, value, key, value ...; keys of 64 bits
    tuple                                   tag 0x666C6F74 of an array
    datetime                                with a fixed offset: tag 0, text; naive: tag 0x666C6F6E, text; fold 0
    date                                    tag 1004 (RFC 8943), text
    Decimal                                 tag 0x666C6F64, text: sign of zero, exponent and NaN are kept
    UUID                                    tag 37, 16 bytes

The four tags that are not of the registry spell ``flop``, ``flot``, ``flon`` and ``flod``; a reader that does not know
them still sees the array or text below. A map with int keys is not used as such, since a peer could choose keys that
collide; text and bytes have a hash that nobody outside can foresee.

Subclasses count as other types, so a `numpy.float64` or an `IntEnum` is refused. Does not promise: that two references
to one list are still one list, or the bits of a NaN.
"""

from __future__ import annotations

import datetime as dt
import decimal
import struct
import uuid
from typing import TYPE_CHECKING, Any, Final, cast

import cbor2

from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import PAYLOAD_DECIMAL_CHARACTERS_MAX, PAYLOAD_DEPTH_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowbridge.contracts import BytesLike

_ITEMS_FEW: Final = 12  # of a container: the types of so many are looked at faster one by one
_SCALARS: Final = frozenset((type(None), bool, int, float, str, bytes))
_MAP_KEYS: Final = frozenset((str, bytes))
_KEYS: Final = frozenset((str, bytes, int))
_TAG_DATETIME: Final = 0
_TAG_UUID: Final = 37
_TAG_DATE: Final = 1004
_TAG_DECIMAL: Final = 0x666C6F64
_TAG_NAIVE: Final = 0x666C6F6E
_TAG_PAIRS: Final = 0x666C6F70
_TAG_TUPLE: Final = 0x666C6F74
_KEY_MIN: Final = -(2**63)
_KEY_MAX: Final = 2**63 - 1
_UINT64_MASK: Final = 2**64 - 1
_PAIR: Final = b"\x82"  # an array of two: the value, and the mark that nothing is left over
_MARK: Final = struct.Struct(">BQ")
_UINT64_HEAD: Final = 0x1B
# Tags that cbor2 would act upon by itself (it compiles regular expressions, say); all others go to the tag hook.
_TAGS_BANNED: Final = (1, 4, 5, 25, 28, 29, 30, 35, 36, 52, 54, 100, 256, 258, 260, 261, 43000, 55799)


def tree_to_bytes(value: Any) -> bytes:
    """One CBOR item.

    Raises: EncodeError that names the path to what cannot be written, such as ``value.rows[3].when``.
    """
    try:
        if _is_plain(value, PAYLOAD_DEPTH_MAX):
            return cbor2.dumps(value)
        return cbor2.dumps(_outward(value, "value", 1))
    except (cbor2.CBOREncodeError, ValueError, OverflowError, RecursionError) as error:
        _outward(value, "value", 1)  # names the text that is to blame
        raise EncodeError(f"value cannot be written: {error}") from error


def tree_from_bytes(buffer: BytesLike) -> Any:
    """The value of one CBOR item that fills the buffer. Raises: DecodeError, and nothing else, for any bytes."""
    data = bytes(buffer)
    # cbor2 does not tell what follows an item. So the item becomes the first of two, and the second must be met where
    # it was put: the hash of the whole, which the bytes cannot contain themselves.
    mark = hash(data) & _UINT64_MASK
    try:
        pair: Any = cbor2.loads(
            b"".join((_PAIR, data, _MARK.pack(_UINT64_HEAD, mark))),
            max_depth=2 * PAYLOAD_DEPTH_MAX + 4,  # a tag and its array count as two
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            tag_hook=_refuse_tag,
            semantic_decoders=_DECODERS,
        )
    except (cbor2.CBORError, ArithmeticError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise DecodeError(f"a payload is not CBOR as agreed: {str(error.__cause__ or error)[:200]}") from error
    value, found = pair
    if type(found) is not int or found != mark:
        raise DecodeError("a payload ends before its bytes do, or after them")
    if len(data.translate(None, _SIMPLE_VALUES)) != len(data) and not _is_known(value):
        raise DecodeError("a payload has a simple value that is not agreed on")
    return value


# --- out ------------------------------------------------------------------------------------------------------------


def _is_plain(value: Any, depth_left: int) -> bool:
    """Whether cbor2 alone writes the value so that it comes back the same."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is dict:
        if not depth_left:
            return False
        if len(value) > _ITEMS_FEW and _MAP_KEYS.issuperset(map(type, value)) and _are_scalars(value.values()):
            return True
        for key, item in value.items():
            if type(key) not in _MAP_KEYS:
                return False
            if type(item) not in _SCALARS and not _is_plain(item, depth_left - 1):
                return False
        return True
    if kind is list:
        if not depth_left:
            return False
        if len(value) > _ITEMS_FEW and _are_scalars(value):
            return True
        for item in value:  # noqa: SIM110 - a generator takes twice as long
            if type(item) not in _SCALARS and not _is_plain(item, depth_left - 1):
                return False
        return True
    return kind in _SCALARS


def _are_scalars(items: Iterable[Any]) -> bool:
    return _SCALARS.issuperset(map(type, items))


def _outward(value: Any, path: str, depth: int) -> Any:
    """The same tree of what cbor2 writes by itself. Raises: EncodeError with the path."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str:
        return _text_out(value, path)
    if kind in _SCALARS:
        return value
    leaf = _LEAVES.get(kind)  # pyright: ignore[reportUnknownArgumentType]
    if leaf is not None:
        return leaf(value, path)
    if kind not in (dict, list, tuple):
        raise EncodeError(f"{path}: {_complaint(value)}")
    if depth > PAYLOAD_DEPTH_MAX:
        raise EncodeError(
            f"{_cut(path)}: containers within containers exceed {PAYLOAD_DEPTH_MAX}, or contain themselves"
        )
    if kind is dict:
        return _dict_out(value, path, depth)
    items = [_outward(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    return items if kind is list else cbor2.CBORTag(_TAG_TUPLE, items)


def _dict_out(value: dict[Any, Any], path: str, depth: int) -> Any:
    for key in value:
        if type(key) not in _KEYS:
            raise EncodeError(
                f"{path}: a key is of type {type(key).__name__}; only str, bytes and int leave a process as keys"
            )
        if type(key) is int and not _KEY_MIN <= key <= _KEY_MAX:
            raise EncodeError(f"{path}: a key of {key.bit_length()} bits does not fit into a signed 64-bit integer")
        if type(key) is str:
            _text_out(key, path)
    items = {key: _outward(item, path + _step(key), depth + 1) for key, item in value.items()}
    if _MAP_KEYS.issuperset(map(type, items)):
        return items
    return cbor2.CBORTag(_TAG_PAIRS, [part for pair in items.items() for part in pair])


def _step(key: str | int) -> str:
    return f".{key}" if type(key) is str and key.isidentifier() else f"[{key!r:.60}]"


def _cut(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:117]}..."


def _text_out(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(f"{path}: text with a lone surrogate at {error.start} has no UTF-8") from error
    return text


def _datetime_out(value: dt.datetime, path: str) -> Any:
    text = value.isoformat()
    back = dt.datetime.fromisoformat(text)
    if repr(back) != repr(value):  # a named zone, or the second of two equal hours
        raise EncodeError(f"{path}: a datetime needs a zone of fixed offset and fold 0: send .astimezone(datetime.UTC)")
    return cbor2.CBORTag(_TAG_NAIVE if value.tzinfo is None else _TAG_DATETIME, text)


def _date_out(value: dt.date, _path: str) -> Any:
    return cbor2.CBORTag(_TAG_DATE, value.isoformat())


def _decimal_out(value: decimal.Decimal, path: str) -> Any:
    text = str(value)
    if len(text) > PAYLOAD_DECIMAL_CHARACTERS_MAX:
        raise EncodeError(f"{path}: a Decimal exceeds {PAYLOAD_DECIMAL_CHARACTERS_MAX} characters: {len(text)}")
    return cbor2.CBORTag(_TAG_DECIMAL, text)


def _uuid_out(value: uuid.UUID, _path: str) -> Any:
    return cbor2.CBORTag(_TAG_UUID, value.bytes)


_LEAVES: Final[dict[type, Callable[[Any, str], Any]]] = {
    dt.datetime: _datetime_out,
    dt.date: _date_out,
    decimal.Decimal: _decimal_out,
    uuid.UUID: _uuid_out,
}
_HINTS: Final = {
    "set": "send a sorted list",
    "frozenset": "send a sorted list",
    "bytearray": "send bytes(...)",
    "memoryview": "send bytes(...), or the memoryview alone as the payload",
    "range": "send a list",
    "timedelta": "send .total_seconds()",
    "complex": "send a list of two floats",
    "ndarray": "send a pyarrow.RecordBatch, .tolist() or .tobytes()",
}


def _complaint(value: object) -> str:
    """Why a value of this type stays at home, and what to send instead."""
    kind = type(value)
    name, origin = kind.__name__, kind.__module__.partition(".")[0]
    full = f"{origin} {name}" if origin in {"numpy", "pyarrow"} else name
    what = f"{'an' if full[0] in 'aeioAEIO' else 'a'} {full}"
    hint = _HINTS.get(name, "")
    if hint:
        pass
    elif origin == "numpy":
        hint = "send .item()"
    elif origin == "pyarrow":
        hint = "send a pyarrow.RecordBatch or Table alone as the payload"
    elif hasattr(kind, "__dataclass_fields__"):
        hint = "send dataclasses.asdict(...)"
    elif hasattr(kind, "__members__"):
        hint = "send its .value"
    else:
        plain = next(
            (base.__name__ for base in kind.__mro__[1:] if base in _SCALARS or base in (dict, list, tuple)), ""
        )
        hint = f"send {plain}(...)" if plain else "send a dict or list of plain values"
    return f"{what} cannot leave its process; {hint}, or keep both nodes in one process"


# --- in -------------------------------------------------------------------------------------------------------------


class _Refused(ValueError):
    """A tag that is not agreed on, or whose content is not what the tag says."""


def _refuse_tag(*_: object) -> Any:
    raise _Refused("a tag that is not agreed on")


def _text_in(content: object, characters_max: int = 64) -> str:
    if type(content) is not str or len(content) > characters_max or not content.isascii():
        raise _Refused("the content of a tag is no short ASCII text")
    return content


def _tuple_in(content: object, _immutable: bool) -> Any:
    if type(content) is not list:
        raise _Refused("a tuple is no array")
    return tuple(cast("list[object]", content))


def _pairs_in(content: object, _immutable: bool) -> Any:
    items = cast(list[Any], content)
    if type(content) is not list or len(items) % 2:
        raise _Refused("a dict with int keys is no array of pairs")
    keys = items[::2]
    if not _KEYS.issuperset(map(type, keys)):
        raise _Refused("a key is neither text, bytes nor an int")
    if any(type(key) is int and not _KEY_MIN <= key <= _KEY_MAX for key in keys):
        raise _Refused("a key does not fit into 64 bits")
    found = dict(zip(keys, items[1::2], strict=True))
    if len(found) != len(keys):
        raise _Refused("a key is there twice")
    return found


def _aware_in(content: object, _immutable: bool) -> Any:
    value = dt.datetime.fromisoformat(_text_in(content))
    if value.tzinfo is None:
        raise _Refused("a datetime has no offset")
    return value


def _naive_in(content: object, _immutable: bool) -> Any:
    value = dt.datetime.fromisoformat(_text_in(content))
    if value.tzinfo is not None:
        raise _Refused("a naive datetime has an offset")
    return value


def _date_in(content: object, _immutable: bool) -> Any:
    return dt.date.fromisoformat(_text_in(content))


def _decimal_in(content: object, _immutable: bool) -> Any:
    return decimal.Decimal(_text_in(content, PAYLOAD_DECIMAL_CHARACTERS_MAX))


def _uuid_in(content: object, _immutable: bool) -> Any:
    if type(content) is not bytes or len(content) != 16:
        raise _Refused("a UUID is no 16 bytes")
    return uuid.UUID(bytes=content)


_DECODERS: Final[dict[int, Callable[[Any, bool], Any]]] = {
    **dict.fromkeys(_TAGS_BANNED, _refuse_tag),
    _TAG_DATETIME: _aware_in,
    _TAG_UUID: _uuid_in,
    _TAG_DATE: _date_in,
    _TAG_DECIMAL: _decimal_in,
    _TAG_NAIVE: _naive_in,
    _TAG_PAIRS: _pairs_in,
    _TAG_TUPLE: _tuple_in,
}
_KNOWN: Final = _SCALARS | _LEAVES.keys()
_SIMPLE_VALUES: Final = bytes(
    (*range(0xE0, 0xF4), 0xF7, 0xF8)
)  # heads of major type 7 other than bools, null and floats


def _is_known(value: Any) -> bool:
    """Whether all that was read is of the types above: CBOR has simple values that no tag guards."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    items: Iterable[Any]
    if kind is dict:
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    else:
        return kind in _KNOWN
    if _KNOWN.issuperset(map(type, items)):
        return True
    return all(type(item) in _KNOWN or _is_known(item) for item in items)
