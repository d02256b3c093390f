"""Write the Grafana dashboard of the chart: one row of panels after another.

python deploy/dashboard            write helm/vlmoe/files/dashboard.json
python deploy/dashboard --check    exit 1 when it is not what would be written
"""

import json
import sys
from pathlib import Path

from batches import BATCHES, ENGINES_AND_COLLECTIONS, QUEUE
from experts import EXPERTS
from grafana import dashboard
from traffic import CACHE_AND_DOORS, LATENCY, NOW, TRAFFIC

FILE = Path(__file__).parents[1] / "helm" / "vlmoe" / "files" / "dashboard.json"
ROWS = {
    "Now": NOW,
    "Traffic": TRAFFIC,
    "Latency": LATENCY,
    "Queue": QUEUE,
    "Batches": BATCHES,
    "Experts": EXPERTS,
    "Cache and doors": CACHE_AND_DOORS,
    "Engines and collections": ENGINES_AND_COLLECTIONS,
}


def main() -> int:
    """Write or check."""
    text = json.dumps(dashboard(ROWS), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        return int(not FILE.is_file() or FILE.read_text() != text)
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
