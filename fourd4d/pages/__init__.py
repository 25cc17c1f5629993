"""Self-contained HTML pages of numbers, charts, tables and question cards."""

from fourd4d.pages.cards import Card, MentalImage
from fourd4d.pages.charts import Bar, Bars, Interval, Lines, Paths, Real, Reals, Series
from fourd4d.pages.page import Number, Page, read_curves, read_texts

__all__ = [
    "Bar", "Bars", "Card", "Interval", "Lines", "MentalImage", "Number", "Page", "Paths", "Real",
    "Reals", "Series", "read_curves", "read_texts",
]
