"""Build the library now.

    python -m vlmoe_kernels.native [--all]

With --all the libraries for every processor that has one, whatever this one is: for images, which then need no compiler
where they run. VLMOE_KERNELS_CACHE says where to.
"""

import argparse
import logging
import sys

from vlmoe_kernels.native.build import Unavailable, build, build_all

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="for every processor")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        for path in build_all() if options.all else [build()]:
            print(path)
    except Unavailable as reason:
        sys.exit(f"the CPU kernels cannot be built: {reason}")
