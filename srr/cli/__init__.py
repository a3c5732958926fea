"""The command line: one command, one function; :mod:`srr.cli.app` registers them."""
