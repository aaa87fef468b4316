"""Reproduction of a paper's table: train and evaluate every row, and print published values next to ours.

table_spec.py           what a table is, read from YAML
plan.py                 the runs that a table takes, and where they are
estimate_cost.py        what a plan would do, and how long its training takes
runner.py               train, evaluate and record each run, resuming what was interrupted
evaluate_job.py         the evaluation of a run, cached in the run
results.py              the JSON record of a table
paired_differences.py   rows compared with a reference example by example
markdown_report.py      the page and its image grids
"""
