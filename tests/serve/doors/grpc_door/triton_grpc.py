"""The start of a script that speaks to a server with Triton's client: python -c START+SCRIPT ADDRESS PICTURE..."""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
pictures = [Path(path).read_bytes() for path in sys.argv[2:]]


def tensor(name, elements):
    given = triton.InferInput(name, [len(elements)], "BYTES")
    given.set_data_from_numpy(np.array(elements, dtype=np.object_))
    return given


def say(found):
    print(json.dumps(found))
