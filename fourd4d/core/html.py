"""Small HTML tables, by which objects show themselves in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = (), title: str = "") -> str:
    """A table as HTML; every cell is escaped."""
    def line(cells: Sequence[object], tag: str) -> str:
        style = ' style="text-align:left;vertical-align:top"'
        return "<tr>" + "".join(f"<{tag}{style}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    caption = f'<caption style="text-align:left"><b>{escape(title)}</b></caption>' if title else ""
    head = f"<thead>{line(header, 'th')}</thead>" if header else ""
    return f"<table>{caption}{head}<tbody>{''.join(line(r, 'td') for r in rows)}</tbody></table>"
