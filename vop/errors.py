"""The base of every error that is meant for a user, whose message the command line shows; and that of adapters.

Whether an adapter is there is asked before torch is imported, whether it fits its model after it.
"""

from __future__ import annotations

from vop.secrets import masked


class VopError(Exception):
    """Something that the user can mend; the message names it and says what is valid.

    Each argument is a line of the message: a name with a line break in it does not make another. Secrets in it are masked.
    """

    def __str__(self) -> str:
        return masked("\n".join(map(str, self.args)))


class AdapterError(VopError, ValueError):
    """An adapter that is incomplete or does not fit its model; the message says what was expected and what was found."""
