"""``python -m sepdeploy``."""

from sepdeploy.cli import main

main()
