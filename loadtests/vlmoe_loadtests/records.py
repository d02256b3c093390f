"""What became of each request, and its line in a CSV file."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Record:
    """One request.

    due_s: when it was to be sent, from the start. sent_s: when it was. done_s: when its answer was whole.
    status: 0 where there was none; then `error` says why. encode_ms, queue_ms, forward_ms, mode: from the answer's
    headers.
    """

    kind: str
    num_inputs: int
    due_s: float
    sent_s: float
    done_s: float
    status: int
    error: str = ""
    encode_ms: float = 0.0
    queue_ms: float = 0.0
    forward_ms: float = 0.0
    batch_tokens: int = 0
    mode: str = ""

    @property
    def latency_ms(self) -> float:
        """From when it was due, so that a generator that falls behind hides nothing."""
        return 1000 * (self.done_s - self.due_s)

    @property
    def outcome(self) -> str:
        """The class it is counted in: `ok`, a status, or what went wrong."""
        if self.status == 0:
            return self.error
        return "ok" if self.status == 200 else str(self.status)


def write_csv(path: Path, records: Iterable[Record]) -> None:
    """One line a request, in the order in which they were due."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Record))
        writer.writerows(astuple(record) for record in records)


def read_csv(path: Path) -> Sequence[Record]:
    """What `write_csv` wrote."""
    with path.open(newline="") as file:
        return [
            Record(
                kind=row["kind"],
                num_inputs=int(row["num_inputs"]),
                due_s=float(row["due_s"]),
                sent_s=float(row["sent_s"]),
                done_s=float(row["done_s"]),
                status=int(row["status"]),
                error=row["error"],
                encode_ms=float(row["encode_ms"]),
                queue_ms=float(row["queue_ms"]),
                forward_ms=float(row["forward_ms"]),
                batch_tokens=int(row["batch_tokens"]),
                mode=row["mode"],
            )
            for row in csv.DictReader(file)
        ]
