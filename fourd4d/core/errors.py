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


def asks_to_stop(error: BaseException) -> bool:
    """Return whether an error asks for the end of the run: it is not the fault of an item.

    Not all that an item can raise is an ``Exception``: panics of Rust libraries are not.
    """
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


def text_of(error: BaseException) -> str:
    """Return ``str(error)`` as text that can be written as UTF-8; empty where that raises."""
    try:
        return str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    except Exception:
        return ""


def one_line(error: BaseException) -> str:
    """Return the error in one line that can be printed and written as UTF-8, with its type."""
    text = text_of(error).strip()
    if not isinstance(error, InputError):
        text = f"{type(error).__name__}: {text.splitlines()[0][:300] if text else 'no message'}"
    return text
