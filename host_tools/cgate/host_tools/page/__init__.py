"""The report as a page: one HTML file that needs nothing else.

No script, no font, no link: styles and pictures are inside. Nothing is computed here except
positions of marks and how a number is written; the figures are those of report.json.
"""
