"""`python -m vlmoe_client` is `vlmoe`."""

import sys

from .cli import main

sys.exit(main())
