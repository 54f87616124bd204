"""The outcome of `formgate bench` as one HTML file: three plots as inline SVG, and the table. It
needs no network and no script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from formgate.gateway.commands.bench_load import Level

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44
COLOURS = ("#2f6fde", "#c8553d", "#3a9d6e")
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem;
  color: light-dark(#1c1e21, #e4e6ea); background: light-dark(#fff, #16181c); }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
.grid { stroke: currentColor; stroke-opacity: .15; } .table { overflow-x: auto; }
table { border-collapse: collapse; white-space: nowrap; font-size: .85rem; }
td, th { padding: .25rem .6rem; text-align: right;
  border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent); }
.failed { color: #c8553d; }
"""

Series = Mapping[str, Sequence[float | None]]


def page(url: str, about: str, levels: Sequence[Level]) -> str:
    """`about`: a line that says what was asked of the server."""
    xs = [level.concurrency for level in levels]
    plots = (
        (
            "Throughput, tokens per second",
            {"all requests together": [level.tokens_per_second for level in levels]},
        ),
        ("First token, milliseconds", _times([level.first_token for level in levels])),
        ("Gap between pieces, milliseconds", _times([level.gap for level in levels])),
    )
    drawn = "\n".join(
        f"<section>\n<h2>{escape(title)}</h2>\n{plot(title, xs, series)}\n</section>"
        for title, series in plots
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>formgate bench: {escape(url)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(url)}</h1>\n<p>{escape(about)}</p>\n{drawn}\n"
        f'<h2>All figures</h2>\n<div class="table">\n{_table(levels)}\n</div>\n</body>\n</html>\n'
    )


def _times(measured: Sequence[Mapping[str, float] | None]) -> Series:
    return {
        name: [None if each is None else 1000 * each[name] for each in measured]
        for name in ("p50", "p90", "p99")
    }


def plot(title: str, xs: Sequence[int], series: Series) -> str:
    """A line for each series over the concurrencies `xs`, which stand at equal distances."""
    values = [y for ys in series.values() for y in ys if y is not None]
    step = tick_step(max(values, default=0.0))
    top = max(math.ceil(max(values, default=0.0) / step), 1) * step
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_at(index: int) -> float:
        return LEFT + inner_width * (index + 0.5) / len(xs)

    def y_at(value: float) -> float:
        return TOP + inner_height * (1 - value / top)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for number in range(round(top / step) + 1):
        y = y_at(number * step)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number * step:g}</text>'
        )
    label_y = HEIGHT - BOTTOM + 16
    for index, x in enumerate(xs):
        parts.append(f'<text x="{x_at(index):.1f}" y="{label_y}" text-anchor="middle">{x}</text>')
    middle = LEFT + inner_width / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">concurrency</text>')
    for number, (name, ys) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x_at(i), y_at(y), xs[i], y) for i, y in enumerate(ys) if y is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.extend(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">'
            f"<title>{escape(name)} at {level}: {value:.4g}</title></circle>"
            for x, y, level, value in points
        )
        x = LEFT + 8 + 60 * number
        parts.append(f'<rect x="{x}" y="6" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="15">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


def tick_step(most: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides 0 to `most` in at most six."""
    if most <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(most / 6))
    return next(power * times for times in (1, 2, 5, 10) if power * times * 6 >= most)


def _table(levels: Sequence[Level]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    rows = "\n".join(
        ('<tr class="failed">' if level.failed else "<tr>")
        + "".join(f"<td>{escape(text)}</td>" for text in cells(level))
        + "</tr>"
        for level in levels
    )
    return f"<table>\n<tr>{head}</tr>\n{rows}\n</table>"


COLUMNS = (
    *("concurrency", "requests", "failed", "tokens/s", "requests/s"),
    *("first token p50", "p99", "gap p50", "p99", "answer p50"),
)


def cells(level: Level) -> tuple[str, ...]:
    """A level's row, for `COLUMNS`."""

    def time_of(measured: Mapping[str, float] | None, name: str) -> str:
        if measured is None:
            return "-"
        seconds = measured[name]
        return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"

    return (
        *(str(level.concurrency), str(level.requests), str(level.failed)),
        *(f"{level.tokens_per_second:.1f}", f"{level.requests_per_second:.2f}"),
        *(time_of(level.first_token, name) for name in ("p50", "p99")),
        *(time_of(level.gap, name) for name in ("p50", "p99")),
        time_of(level.total, "p50"),
    )
