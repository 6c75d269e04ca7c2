"""`python -m claprt`."""

from claprt.cli.main import run

run()
