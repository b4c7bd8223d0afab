"""The one exception that tells a user about a mistake of theirs."""


class FoveaError(ValueError):
    """A mistake the user can mend: the message says what was expected, what came and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
