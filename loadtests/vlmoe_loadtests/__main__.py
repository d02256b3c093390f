"""python -m vlmoe_loadtests."""

import sys

from vlmoe_loadtests.main import main

sys.exit(main())
