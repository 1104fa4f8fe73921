"""The one exception for the user's own mistakes."""


class UserError(Exception):
    """A mistake the user can mend: its message names the file, line, key or value and says what to do.

    The command line prints the message alone and exits with code 2; nothing else in qkv exits so.
    """
