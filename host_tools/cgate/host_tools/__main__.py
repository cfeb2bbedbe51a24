"""`python -m cgate.host_tools` is the same as `cgate`."""

import sys

from cgate.host_tools.cli import main

sys.exit(main())
