"""The twelve claims of the paper, each with a statistic, its uncertainty and a verdict.

- `statistics`: `Statistic`, `Judgement` and the one rule that turns numbers into verdicts
- `training`: claims that the training history decides
- `traces`, `spectra`: claims that curvature decides
- `statements`: the claims in words
- `ledger`: all of them together, as JSON, Markdown and HTML
"""

from hessspec_mtl.claims.ledger import (
    judge,
    ledger_html,
    ledger_markdown,
    ledger_records,
    write_ledger,
)
from hessspec_mtl.claims.statistics import Judgement, Statistic, Verdict, verdict_of

__all__ = [
    "Judgement",
    "Statistic",
    "Verdict",
    "judge",
    "ledger_html",
    "ledger_markdown",
    "ledger_records",
    "verdict_of",
    "write_ledger",
]
