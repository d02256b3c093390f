"""Make the Python stubs of the .proto files: `make proto` writes them beside those, an argument elsewhere.

    python clients/make_stubs.py [DIR]

Needs grpcio-tools of the version that pyproject.toml names: a stub says which runtime it needs at least.
"""

import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
PROTOS = ROOT / "vlmoe_client" / "proto"


def make(out: Path) -> None:
    """Write the stubs of every .proto file below `out`."""
    files = sorted(path for path in PROTOS.rglob("*.proto"))
    _run(files, f"--python_out={out}", f"--pyi_out={out}")
    _run((path for path in files if "\nservice " in path.read_text()), f"--grpc_python_out={out}")


def _run(files: Iterable[Path], *options: str) -> None:
    # named from the root of the package, so that the stubs import each other without any rewriting
    names = [str(path.relative_to(ROOT)) for path in files]
    google = resources.files("grpc_tools") / "_proto"
    code = protoc.main(["protoc", f"--proto_path={ROOT}", f"--proto_path={google}", *options, *names])
    if code != 0:
        raise SystemExit(code)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
