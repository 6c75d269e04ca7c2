"""Results as one HTML page that needs no network and no script: tables, and plots drawn by matplotlib."""

from claprt_bench.report.page import write_report

__all__ = ["write_report"]
