"""Every clause of a codec, on the one that ships."""

from __future__ import annotations

import pytest

from flowbridge.codec.cbor import CborCodec
from flowbridge.testing.conformance import Clause, clauses


@pytest.mark.parametrize("clause", clauses("codec"), ids=lambda clause: str(clause.name).replace(" ", "_"))
def test_the_codec_keeps_its_promise(clause: Clause) -> None:
    clause.check(CborCodec)
