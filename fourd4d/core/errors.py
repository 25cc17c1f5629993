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


def text_of(error: BaseException) -> str:
    """``str(error)``, empty where the error fails to describe itself, as some libraries' do."""
    try:
        return str(error)
    except Exception:
        return ""


def one_line(error: BaseException) -> str:
    """The error in one line that can be printed and written as UTF-8; its type unless it says."""
    text = text_of(error).strip()
    if not isinstance(error, InputError):
        text = f"{type(error).__name__}: {text.splitlines()[0][:300] if text else 'no message'}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
