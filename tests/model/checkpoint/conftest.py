"""Ways to damage a safetensors file on purpose."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def edit_header() -> Callable[[Path, Edit], None]:
    """edit_header(file, change): rewrite a file's header in place, its tensors' bytes unchanged."""

    def rewrite(file: Path, change: Edit) -> None:
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return rewrite
