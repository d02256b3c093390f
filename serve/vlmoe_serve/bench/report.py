"""What was measured: one row a case, as JSON and as a table for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmoe_serve.bench.timing import Times

_TITLES = {
    "moe": "ours MoE",
    "dense": "ours dense",
    "stock_moe": "stock MoE",
    "stock_dense": "stock dense",
    "loop": "loop",
    "grouped_mm": "grouped_mm",
    "padded": "all padded",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One case.

    num_experts: of a pool. times: by column. multiply_adds_s, bytes_s: the machine's rates. roofline_s: what the
    mixture would take at these rates, the larger of its products and of reading its weights.
    """

    case: str
    dtype: str
    threads: int
    num_experts: int
    num_sequences: int
    num_tokens: int
    times: Mapping[str, Times]
    multiply_adds_s: float
    bytes_s: float
    roofline_s: float
    peak_mb: float

    def ms(self, column: str) -> float:
        """Median of a column."""
        return 1e3 * self.times[column].median_s

    def to_json(self) -> dict[str, object]:
        """Names of the outer contract, and some more."""
        return {
            "case": self.case,
            "dtype": self.dtype,
            "threads": self.threads,
            "ms": {column: round(self.ms(column), 3) for column in self.times},
            "moe_over_dense": round(self.ms("moe") / self.ms("dense"), 3),
            "stock_over_ours": round(self.ms("stock_moe") / self.ms("moe"), 3),
            "roofline_ms": round(1e3 * self.roofline_s, 3),
            "peak_mb": round(self.peak_mb, 1),
            "spread": {column: round(times.spread, 3) for column, times in self.times.items()},
            "turns": len(self.times["moe"].turns),
            "experts": self.num_experts,
            "sequences": self.num_sequences,
            "tokens": self.num_tokens,
            "sequences_s": round(self.num_sequences / self.times["moe"].median_s, 2),
            "gflops": round(2e-9 * self.multiply_adds_s, 1),
            "read_gb_s": round(1e-9 * self.bytes_s, 1),
        }


def head(columns: Sequence[str]) -> str:
    """The table's first line; milliseconds, median and spread."""
    return " ".join(
        (
            f"{'case':<10} {'dtype':<5} {'experts':>7} {'tokens':>6}",
            *(f"{_TITLES[column]:>14}" for column in columns),
            f"{'MoE/dense':>9} {'stock/ours':>10} {'roofline':>9} {'x roof':>6} {'seq/s':>7} {'peak MB':>7}",
        )
    )


def line(row: Row, columns: Sequence[str]) -> str:
    """One case."""
    cells = (f"{row.ms(column):9.1f} {row.times[column].spread:4.0%}" for column in columns)
    roofline_ms = 1e3 * row.roofline_s
    return " ".join(
        (
            f"{row.case:<10} {row.dtype:<5} {row.num_experts:>7} {row.num_tokens:>6}",
            *cells,
            f"{row.ms('moe') / row.ms('dense'):>9.2f} {row.ms('stock_moe') / row.ms('moe'):>10.2f}",
            f"{roofline_ms:>9.1f} {row.ms('moe') / roofline_ms:>6.2f}",
            f"{row.num_sequences / row.times['moe'].median_s:>7.1f} {row.peak_mb:>7.0f}",
        )
    )
