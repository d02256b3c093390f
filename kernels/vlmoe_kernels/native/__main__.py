"""Build the library now: python -m vlmoe_kernels.native."""

import logging
import sys

from vlmoe_kernels.native.build import Unavailable, build

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(build())
    except Unavailable as reason:
        sys.exit(f"the CPU kernels cannot be built: {reason}")
