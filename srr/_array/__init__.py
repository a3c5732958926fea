"""Floor 0: array libraries, linear algebra, argument checks and files, each in one place."""
