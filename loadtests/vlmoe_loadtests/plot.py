"""A plot without a plotting library: latency over time, one dot a request, and what became of it by colour."""

import math
from collections.abc import Sequence
from html import escape

from vlmoe_loadtests.records import Record

_WIDTH, _HEIGHT = 900, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 50
_COLOURS = {"ok": "#1f77b4", "429": "#ff9f1c", "504": "#d62728", "timeout": "#d62728"}
_OTHER = "#7f7f7f"


def latency_svg(records: Sequence[Record], title: str, objective_ms: float) -> str:
    """Latency in milliseconds, on a logarithmic axis, against when each request was due."""
    end_s = max((record.due_s for record in records), default=1.0) or 1.0
    low = 10 ** math.floor(math.log10(max(0.1, min((r.latency_ms for r in records), default=1.0))))
    high = 10 ** math.ceil(math.log10(max(10 * low, max((r.latency_ms for r in records), default=10.0))))

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / end_s

    def y(ms: float) -> float:
        share = math.log(max(ms, low) / low) / math.log(high / low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    ms = low
    while ms <= high:
        parts.append(_line(_LEFT, y(ms), _WIDTH - _RIGHT, y(ms), "#dddddd"))
        parts.append(f'<text x="{_LEFT - 8}" y="{y(ms) + 4:.1f}" text-anchor="end">{ms:g} ms</text>')
        ms *= 10
    for step in range(6):
        seconds = end_s * step / 5
        parts.append(
            f'<text x="{x(seconds):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{seconds:.1f} s</text>'
        )
    if low <= objective_ms <= high:
        parts.append(_line(_LEFT, y(objective_ms), _WIDTH - _RIGHT, y(objective_ms), "#2ca02c"))
    for record in records:
        colour = _COLOURS.get(record.outcome, _OTHER)
        parts.append(
            f'<circle cx="{x(record.due_s):.1f}" cy="{y(record.latency_ms):.1f}" r="1.6" fill="{colour}"/>'
        )
    at = _LEFT
    for outcome in sorted({record.outcome for record in records}):
        colour = _COLOURS.get(outcome, _OTHER)
        parts.append(f'<circle cx="{at}" cy="{_HEIGHT - 12}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{at + 8}" y="{_HEIGHT - 8}">{escape(outcome)}</text>')
        at += 30 + 8 * len(outcome)
    return "\n".join([*parts, "</svg>\n"])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
