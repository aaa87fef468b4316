"""Reports: what a run learned, as figures and one page; and runs side by side."""

from advae.report.comparison import write_comparison
from advae.report.comparison_page import Comparison, compare
from advae.report.run_report import write_report

__all__ = ["Comparison", "compare", "write_comparison", "write_report"]
