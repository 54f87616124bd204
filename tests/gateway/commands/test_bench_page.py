"""What `formgate bench` computes from its samples, and the page that it draws."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from formgate.gateway import cli
from formgate.gateway.commands.bench_load import (
    Level,
    Plan,
    Sample,
    percentiles,
    prompts,
    summary,
)
from formgate.gateway.commands.bench_page import page, plot, tick_step

GOOD = Sample(total=2.0, first_token=0.5, gaps=[0.1, 0.2, 0.3], tokens=4)
BAD = Sample(total=9.0, first_token=0.4, gaps=[8.0], tokens=1, error="cut off")


def test_a_level_counts_what_was_answered() -> None:
    level = summary([GOOD, BAD, GOOD], 2, seconds=4.0)
    assert (level.requests, level.failed, level.tokens, level.error) == (3, 1, 8, "cut off")
    assert (level.tokens_per_second, level.requests_per_second) == (2.0, 0.5)
    assert level.gap == {"p50": 0.2, "p90": 0.3, "p99": 0.3}
    assert level.total == {"p50": 2.0, "p90": 2.0, "p99": 2.0}
    nothing = summary([BAD], 1, seconds=1.0)
    assert (nothing.first_token, nothing.tokens_per_second) == (None, 0.0)


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentiles([float(n) for n in range(100, 0, -1)]) == {
        "p50": 50.0,
        "p90": 90.0,
        "p99": 99.0,
    }


def test_prompts_are_reproducible_and_share_no_prefix() -> None:
    plan = Plan({}, prompt_words=20, requests=50, seconds=1)
    made = list(prompts(plan, 4))
    assert made == list(prompts(plan, 4))
    assert len(made) == 50
    assert len({" ".join(prompt.split()[:5]) for prompt in made}) == 50
    assert not set(made) & set(prompts(plan, 8))


@pytest.mark.parametrize(
    ("most", "step"), [(0, 1), (6, 1), (7, 2), (23, 5), (900, 200), (0.05, 0.01), (0.7, 0.2)]
)
def test_axes_have_round_ticks(most: float, step: float) -> None:
    assert tick_step(most) == pytest.approx(step)
    assert most <= 6 * tick_step(most)


def test_points_stand_where_their_values_are() -> None:
    svg = ElementTree.fromstring(plot("t", [1, 8], {"a": [50.0, 100.0], "b": [None, 0.0]}))
    dots = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in svg.iter("circle")]
    (x1, half), (x8, full), (x_b, zero) = dots  # None has no point
    assert x1 < x8 == x_b
    assert full < half < zero  # larger values are further up
    assert half == pytest.approx((full + zero) / 2, abs=0.1)


def test_the_page_is_one_file_of_well_formed_markup() -> None:
    levels = [summary([GOOD] * n, n, 4.0) for n in (1, 2)] + [summary([BAD], 4, 1.0)]
    text = page("http://a/<b>", "Model <m>.", levels)
    root = ElementTree.fromstring(
        re.sub(r"<meta[^>]*>", "", text).removeprefix("<!doctype html>\n")
    )
    assert len(list(root.iter("svg"))) == 3
    assert len(list(root.iter("tr"))) == 4
    assert root.findtext("body/h1") == "http://a/<b>"
    assert not re.search(r"(src|href)=|<script", text)


@pytest.mark.parametrize(
    "flags", ["--concurrency 0", "--concurrency 1,2000", "--requests x", "--seconds 1e9"]
)
def test_the_load_is_bounded(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "http://127.0.0.1:1", *flags.split()])
    assert stop.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "http://127.0.0.1:1"]) == 2
    assert "http://127.0.0.1:1" in capsys.readouterr().err
    assert cli.main(["bench", "127.0.0.1"]) == 2
    assert "is not a URL" in capsys.readouterr().err


def test_levels_are_data() -> None:
    assert summary([GOOD], 1, 1.0) == Level(
        *(1, 1, 0, 1.0, 4, 4.0, 1.0),
        {"p50": 0.5, "p90": 0.5, "p99": 0.5},
        {"p50": 0.2, "p90": 0.3, "p99": 0.3},
        {"p50": 2.0, "p90": 2.0, "p99": 2.0},
    )
