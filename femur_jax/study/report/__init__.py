"""The study's report: contents.py holds what it shows, page.py writes it."""
