"""`python -m vlmoe_train train ...` is `vlmoe train ...`; torchrun starts this."""

import sys

from vlmoe_train.cli import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
