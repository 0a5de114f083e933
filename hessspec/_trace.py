"""The verb `trace` and its record."""

from hessspec._trace_estimate import TraceEstimate

__all__ = ["TraceEstimate"]
