"""The command line. Each command is one file of this folder that defines a function of the same name."""
