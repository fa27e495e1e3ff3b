"""Whose mistake an error is: the user's, who gets a message, or ours, which keeps its traceback."""

import dis


def is_worded_for_users(error: ValueError) -> bool:
    """Whether a `raise` statement of ours made the error; one from inside a library is a bug of its caller: ours."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or last.tb_frame.f_globals.get("__name__", "").split(".")[0] not in ("pipeline", "jobs"):
        return False
    # A compiled function that raises (NumPy's, torch's) leaves its caller as the last frame, at a call, not at a raise.
    return last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
