"""The exception that a user's mistake raises."""


class UserError(Exception):
    """Bad input; the message states in one sentence what is wrong, where, and how to mend it.

    Every command prints the message without a traceback and ends with exit code 2.
    """
