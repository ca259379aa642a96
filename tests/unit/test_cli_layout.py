"""The layered layout: its promises on any graph."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.cli.graph_layout import lay_out

HEIGHT = 40.0
GAP = 24.0


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, float], list[tuple[str, str]], list[int]]:
    """Any graph of up to 12 vertices, cycles and loops included, some of its arrows called feedback."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 12)))]
    arrows = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=30))
    ignored = draw(st.lists(st.integers(0, len(arrows) - 1), max_size=4, unique=True)) if arrows else []
    return dict.fromkeys(names, HEIGHT), arrows, ignored


@given(graphs())
def test_every_arrow_that_is_not_backward_leads_to_a_later_layer(
    graph: tuple[dict[str, float], list[tuple[str, str]], list[int]],
) -> None:
    heights, arrows, ignored = graph
    layout = lay_out(heights, arrows, ignored)
    assert set(ignored) <= layout.backward
    for i, (source, target) in enumerate(arrows):
        if i not in layout.backward:
            assert layout.layer[source] < layout.layer[target]
            chain = [layout.layer[name] for name in (source, *layout.bends[i], target)]
            assert chain == list(range(chain[0], chain[-1] + 1)), "one bend in every layer between"


@given(graphs())
def test_no_two_vertices_overlap_and_none_is_above_the_top(
    graph: tuple[dict[str, float], list[tuple[str, str]], list[int]],
) -> None:
    heights, arrows, ignored = graph
    layout = lay_out(heights, arrows, ignored, GAP)
    assert set(heights) <= set(layout.middle)
    for at in range(layout.layers):
        places = sorted(layout.middle[name] for name in heights if layout.layer[name] == at)
        assert all(low - high >= HEIGHT + GAP - 1e-6 for high, low in pairwise(places))
        assert all(y >= HEIGHT / 2 - 1e-6 for y in places)


@given(graphs())
def test_the_same_graph_is_always_laid_out_the_same(
    graph: tuple[dict[str, float], list[tuple[str, str]], list[int]],
) -> None:
    heights, arrows, ignored = graph
    assert lay_out(heights, arrows, ignored) == lay_out(heights, arrows, ignored)


def test_a_cycle_is_cut_once() -> None:
    layout = lay_out(dict.fromkeys("abc", HEIGHT), [("a", "b"), ("b", "c"), ("c", "a")])
    assert layout.backward == {2}
    assert [layout.layer[name] for name in "abc"] == [0, 1, 2]


def test_a_source_stands_next_to_what_it_feeds() -> None:
    layout = lay_out(dict.fromkeys("abcx", HEIGHT), [("a", "b"), ("b", "c"), ("x", "c")])
    assert layout.layer["x"] == 1


def test_crossed_arrows_are_uncrossed() -> None:
    layout = lay_out(dict.fromkeys("abxy", HEIGHT), [("a", "y"), ("b", "x")])
    assert (layout.middle["a"] < layout.middle["b"]) == (layout.middle["y"] < layout.middle["x"])
    assert layout.middle["a"] == layout.middle["y"], "and they are straight"


def test_a_chain_of_thousands_needs_no_recursion() -> None:
    names = [f"n{i}" for i in range(5_000)]
    layout = lay_out(dict.fromkeys(names, HEIGHT), list(pairwise(names)))
    assert layout.layer["n4999"] == 4_999


def test_arrows_that_would_need_too_many_bends_go_straight() -> None:
    names = [f"n{i}" for i in range(400)]
    arrows = [*pairwise(names), *(("n0", name) for name in names[2:])]
    layout = lay_out(dict.fromkeys(names, HEIGHT), arrows)
    assert sum(map(len, layout.bends.values())) <= 20_000
    assert layout.bends[len(arrows) - 1] == []
