"""Reports of runs, and comparisons between runs."""

from advae.report.comparison import Comparison, compare
from advae.report.comparison_page import write_comparison
from advae.report.run_report import write_report

__all__ = ["Comparison", "compare", "write_comparison", "write_report"]
