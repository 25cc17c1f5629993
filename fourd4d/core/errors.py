"""Errors a user can act on: what is wrong, where, and what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from outside: a file, a row of a file, a config field.

    The message reads ``<where>: <what>. <remedy>.``
    """

    def __init__(self, where: object, what: str, remedy: str = ""):
        self.where, self.what, self.remedy = str(where), what, remedy
        tail = f" {remedy.rstrip('.')}." if remedy else ""
        super().__init__(f"{self.where}: {what.rstrip('.')}.{tail}")

    def __reduce__(self):  # Worker processes hand errors back pickled.
        return type(self), (self.where, self.what, self.remedy)


class DiskFullError(InputError):
    """No space left where output goes; whatever was being read is not to blame."""


def one_line(error: BaseException) -> str:
    """Describes an error in one line: an InputError's own words, else its type and first line."""
    if isinstance(error, InputError):
        return str(error)
    first = (str(error).strip() or "no message").splitlines()[0][:300]
    return f"{type(error).__name__}: {first}"
