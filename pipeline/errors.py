"""Whose mistake an error is: a `UserError` is the user's and reaches them as a message; any other keeps its traceback."""


class UserError(ValueError):
    """A value that a user gave, or a file of theirs, is not what was expected; the message says what to do."""
