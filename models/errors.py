"""The one exception that scripts turn into a single line and exit code 1."""


class InputError(Exception):
    """A file, row, key or setting that the user has to change; the message says which, and what to do."""
