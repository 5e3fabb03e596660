"""`python -m gateway.cli`."""

from gateway.cli.frame import main

main()
