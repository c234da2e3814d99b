"""A page to look at and a table of numbers of everything that was made of an instrument.

Reading order: products (what is read), truth (simulation against finds), summary and quality (numbers and their limits), story
(what is picked to be shown), style, mosaic, field, curves (figures), page (all of it).
"""

from payloads.report.page import write_report
from payloads.report.summary import summarise

__all__ = ["summarise", "write_report"]
