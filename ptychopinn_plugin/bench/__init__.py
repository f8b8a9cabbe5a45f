"""How fast this machine trains and reconstructs, beside what its arithmetic and memory allow."""

from ptychopinn_plugin.bench.comparison import compare, read_report
from ptychopinn_plugin.bench.measurement import BenchOptions, BenchRow, run_bench

__all__ = ['BenchOptions', 'BenchRow', 'compare', 'read_report', 'run_bench']
