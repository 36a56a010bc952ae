"""The one exception whose message is meant for the person at the terminal."""


class UserError(ValueError):
    """Bad input: one line that says what, where, what was expected, and what to do.

    ``src.run`` prints the message without a traceback and exits with code 2.
    """
