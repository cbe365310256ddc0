"""`python -m api`: the service's command line."""

import sys

try:
    from api.cli import main

    main()
except KeyboardInterrupt:  # while modules were being imported; later it is seen to
    sys.exit(130)
