"""One command a file: parse, call ``sepdeploy.api``, render, return the exit code."""
