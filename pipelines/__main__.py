"""`python -m pipelines` is the `vop` command, for `ray job submit` and other places without it."""

from pipelines.cli import app

app()
