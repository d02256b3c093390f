"""One panel of the dashboard: a title and its queries."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. kind: Grafana's, or "rows" for a heat map with a row a series.

    queries: legend -> PromQL, where SELECT, ROUTES and RATE stand for the common parts.
    """

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    width: int = 8
    description: str = ""
    stacked: bool = False


def quantiles(metric: str, by: str, select: str = "SELECT") -> dict[str, str]:
    """Three quantiles of a histogram, for each value of a label or for all together."""
    inside = f"sum by (le{', ' + by if by else ''}) (rate({metric}_bucket{{{select}}}[RATE]))"
    suffix = f" {{{{{by}}}}}" if by else ""
    return {
        f"p{int(100 * quantile)}{suffix}": f"histogram_quantile({quantile}, {inside})"
        for quantile in (0.5, 0.9, 0.99)
    }
