"""`python -m api`: the service's command line."""

from api.cli import main

main()
