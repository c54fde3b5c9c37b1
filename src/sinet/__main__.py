"""`python -m sinet` is the `sinet` command; `torchrun -m sinet train ...` uses it."""

from sinet.cli import main

main()
