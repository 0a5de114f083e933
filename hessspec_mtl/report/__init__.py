"""The report of a run: one page that explains itself, and all that it shows as files beside it.

- `results`: the records that come in, `Results` and `FullDataset`
- `write`: `write_results`, from records to files
- `words`: the summary and other sentences
- `tasks`: tables and findings on tasks against each other
- `parts`: what part of the curvature is the network's own
- `page`, `frame`: the page in HTML, its style
- `markdown`: the same with links
"""

from hessspec_mtl.report.results import FullDataset, Results
from hessspec_mtl.report.write import ReportFiles, write_results

__all__ = ["FullDataset", "ReportFiles", "Results", "write_results"]
