"""`python -m api.workers FD`: one worker, started by its parent."""

import sys

from api.workers.worker import main

if __name__ == "__main__":
    main(int(sys.argv[1]))
