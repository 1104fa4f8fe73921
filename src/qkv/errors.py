"""The one exception for the user's own mistakes."""


class UserError(Exception):
    """A mistake the user can mend: its message names the file, line, key or value and says what to do.

    The command line prints the message alone and exits with code 2; nothing else in qkv exits so.
    """


class FaultyItems(UserError):
    """A mistake in some of several items that are worked on together; the message tells of the first.

    Args:
        what: an item is called: `source`.
        reasons: for the index of each that is at fault, what is wrong with it: `has 70 tokens, …`.
    """

    def __init__(self, what: str, reasons: dict[int, str]):
        first = min(reasons)
        super().__init__(f"{what} {first + 1} {reasons[first]}")
        self.what, self.reasons = what, reasons
