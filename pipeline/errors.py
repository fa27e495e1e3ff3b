"""The error for a user's mistake: it reaches them as a message; any other error keeps its traceback."""


class UserError(ValueError):
    """A value that a user gave, or a file of theirs, is not what was expected; the message says what to do."""
