"""Self-contained HTML pages of numbers, charts, tables and question cards."""

from fourd4d.pages.cards import Card, MentalImage
from fourd4d.pages.charts import Bar, Bars, Interval, Lines, Paths, Percent, Real, Reals, Series
from fourd4d.pages.page import Curves, Number, Page, fragment, read_curves, read_texts

__all__ = [
    "Bar", "Bars", "Card", "Curves", "Interval", "Lines", "MentalImage", "Number", "Page", "Paths",
    "Percent", "Real", "Reals", "Series", "fragment", "read_curves", "read_texts",
]
