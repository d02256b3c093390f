"""Grouped bars as an SVG file, without a library: what the pages of docs/results show."""

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#b0b0b0", "#7a9cc6", "#2f5f98", "#d08a2e", "#6a9a4b")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 760, 300, 50, 46, 40


def bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], *, line: float) -> str:
    """One panel.

    Args:
        title: above it.
        groups: names along the axis.
        series: a value for each group, by name; at most as many as `COLOURS`.
        line: a value that is drawn through, such as the one that all are measured against.
    """
    top = max(line, *(value for values in series.values() for value in values)) * 1.05
    height = _HEIGHT - _TOP - _BOTTOM
    group_width = (_WIDTH - _LEFT - 10) / len(groups)
    width = group_width * 0.8 / len(series)

    def y_of(value: float) -> float:
        return _TOP + height * (1 - value / top)

    parts = [_text(_LEFT, 18, title, size=14)]
    for place, (name, colour) in enumerate(zip(series, COLOURS, strict=False)):
        x = _LEFT + place * 140
        parts.append(f'<rect x="{x}" y="27" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, 36, name))
    for tick in range(int(top / 0.25) + 1):
        y = y_of(tick / 4)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{tick / 4:g}", anchor="end"))
    for group, name in enumerate(groups):
        begin = _LEFT + group * group_width + group_width * 0.1
        for place, (values, colour) in enumerate(zip(series.values(), COLOURS, strict=False)):
            x, y = begin + place * width, y_of(values[group])
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{_TOP + height - y:.1f}" '
                f'fill="{colour}"/>'
            )
            number = _text(x + width / 2 - 1, y + 11, f"{values[group]:.2f}", anchor="middle", size=9)
            parts.append(number.replace("#202020", "white"))
        parts.append(_text(begin + group_width * 0.4, _HEIGHT - 20, name, anchor="middle"))
    y = y_of(line)
    parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#202020"/>')
    return "\n".join(parts)


def page(panels: Sequence[str]) -> str:
    """Panels below each other, as a file."""
    shifted = [
        f'<g transform="translate(0 {place * _HEIGHT})">\n{panel}\n</g>' for place, panel in enumerate(panels)
    ]
    size = f'width="{_WIDTH}" height="{len(panels) * _HEIGHT}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n'
        f'<rect {size} fill="white"/>\n' + "\n".join(shifted) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#202020">'
        f"{escape(text)}</text>"
    )
