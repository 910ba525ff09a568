"""The errors a user is meant to read."""


class InputError(ValueError):
    """Something the user gave is wrong: one sentence saying what, where and what is valid.

    The command line prints the sentence and exits with code 2. Nothing else is caught, so a bug keeps its traceback.
    """


class Unavailable(Exception):
    """A database is away, locked for too long, or its disk is full: one sentence. The same may be done again later.

    The command line treats it as it treats `InputError`.
    """
