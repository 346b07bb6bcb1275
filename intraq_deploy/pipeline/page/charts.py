"""Charts as SVG text that stands in a page: its colours are the page's, so that it suits light, dark and paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_MOST_POINTS = 200
_LOGARITHMIC = 20
"""The ratio of the greatest to the least value from which on an axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one line or cloud."""

    name: str
    """The words in the legend; empty for a series that the legend leaves out."""
    points: Sequence[tuple[float, float]]
    style: str = "a"
    """The page's class for its colour: "a", "b" or "plain"."""
    line: bool = True
    """Whether the points are joined; else each is a dot."""


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    """Where `low` is drawn, in the chart's units."""
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        share = (self._scaled(value) - self._scaled(self.low)) / (self._scaled(self.high) - self._scaled(self.low))
        return self.start + share * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.logarithmic else value

    def ticks(self) -> list[float]:
        """Returns round values to write beside the axis."""
        if self.logarithmic:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            decades = [10.0**power for power in powers]
            return decades if len(decades) > 1 else [self.low, self.high]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (factor * step) <= 5)
        first = math.ceil(self.low / step - 1e-9)
        return [step * k for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def chart(
    title: str,
    axes: tuple[str, str],
    series: Sequence[Series],
    *,
    bounds: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> Markup:
    """Returns a chart; nothing without points.

    title: what it shows, for screen readers too. axes: the words of the horizontal and of the vertical one. bounds: of
    both axes; None: as the points need, and logarithmic upwards where they span much. diagonal: whether the line of
    equal values is drawn.
    """
    points = [point for each in series for point in each.points if math.isfinite(point[1])]
    if not points:
        return Markup("")
    across = _Axis(*(bounds or _range([x for x, _ in points])), _LEFT, _WIDTH - _RIGHT)
    heights = [y for _, y in points]
    logarithmic = bounds is None and min(heights) > 0 and max(heights) > _LOGARITHMIC * min(heights)
    reach = (min(heights), max(heights)) if logarithmic else _range(heights)
    up = _Axis(*(bounds or reach), _HEIGHT - _BOTTOM, _TOP, logarithmic)
    parts = [*_frame(across, up, axes)]
    if diagonal:
        parts.append(_line([(across.start, up.start), (across.end, up.end)], "diagonal"))
    for each in series:
        places = [(across.place(x), up.place(y)) for x, y in _thinned(each.points) if math.isfinite(y)]
        if each.line:
            parts.append(_line(places, f"line {each.style}"))
        else:
            parts += [f'<circle class="dot {each.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    legend = "".join(
        f'<span class="key"><i class="{each.style}"></i>{escape(each.name)}</span>' for each in series if each.name
    )
    caption = f"<figcaption>{escape(title)}{f'<br>{legend}' if legend else ''}</figcaption>"
    spoken = f"{title}: {axes[1]} from {_number(min(heights))} to {_number(max(heights))}"
    return Markup(  # noqa: S704  texts are escaped above, the rest are numbers
        f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(spoken)}">'
        f"{''.join(parts)}</svg>{caption}</figure>"
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, -(-len(points) // _MOST_POINTS))
    return [*points[::step], *(points[-1:] if (len(points) - 1) % step else [])]


def _frame(across: _Axis, up: _Axis, axes: tuple[str, str]) -> list[str]:
    parts = []
    for value in across.ticks():
        x = across.place(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{_number(value)}</text>')
    for value in up.ticks():
        y = up.place(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(axes[0])}</text>')
    parts.append(f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(axes[1])}</text>')
    return parts


def _line(places: Sequence[tuple[float, float]], style: str) -> str:
    return f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"
