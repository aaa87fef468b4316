"""A paper's table by one command: every row trained, judged alike, and set beside what was published.

table.py      what a table is, read from YAML
jobs.py       what a plan is made of: runs, where they lie, how they are judged
plan.py       from a table to its plan; budget.py the steps that fit into a time, probe.py how fast a row is
work.py       each run trained and judged, from where it was interrupted
judge.py      the usual evaluation, in parts, and images to show
page.py       the record (record.py) and the page: the table (beside.py), every figure (details.py), sheets
toy*.py       the four-point toy, which is judged and shown in a way of its own (studies.py)
forecast.py   what a plan would do, and about how long that takes
"""
