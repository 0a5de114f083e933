"""Figures 1 to 7 of the paper and nine more: functions that return a `Plot`, and its writer.

- `structures`: Figure 1 (crystal and multigraph), Figure 2 (molecule and graph)
- `training`: Figure 3 (errors over training)
- `curvature`: Figure 4 (traces over training)
- `densities`: Figure 5 (densities near 0), Figure 6 (full spectra)
- `appendix`: Figure 7 (appendix E)
- `comparison`: Figure 8 (single against multi-task), Figure 9 (samples for a trace)
- `alignment`: Figure 10 (gradients against each other), Figure 11 (dominant eigenspaces),
  Figure 12 (distances between spectra)
- `weights`: Figure 13 (weights of the tasks, where they are not all 1)
- `tracking`: Figure 14 (sharpness and traces step by step)
- `delta_m`: Figure 15 (weightings of the tasks against each other)
- `parts`: Figure 16 (what of each trace is the losses', what the network's own)
- `style`: one look for all, and how a figure becomes PDF, PNG and CSV
- `axes`: symmetric logarithmic axes, axes of epochs
"""

from hessspec_mtl.figures.alignment import (
    distance_figure,
    eigenspace_figure,
    gradient_conflict_figure,
)
from hessspec_mtl.figures.appendix import appendix_e_figure
from hessspec_mtl.figures.comparison import single_task_figure, trace_convergence_figure
from hessspec_mtl.figures.curvature import trace_figure
from hessspec_mtl.figures.delta_m import delta_m_figure
from hessspec_mtl.figures.densities import cropped_density_figure, full_density_figure
from hessspec_mtl.figures.parts import parts_figure
from hessspec_mtl.figures.structures import (
    crystal_figure,
    molecule_figure,
    own_molecule_figure,
)
from hessspec_mtl.figures.style import Plot, PlotFiles, write_plot
from hessspec_mtl.figures.tracking import tracking_figure
from hessspec_mtl.figures.training import training_error_figure
from hessspec_mtl.figures.weights import weight_figure

__all__ = [
    "Plot",
    "PlotFiles",
    "appendix_e_figure",
    "cropped_density_figure",
    "crystal_figure",
    "delta_m_figure",
    "distance_figure",
    "eigenspace_figure",
    "full_density_figure",
    "gradient_conflict_figure",
    "molecule_figure",
    "own_molecule_figure",
    "parts_figure",
    "single_task_figure",
    "trace_convergence_figure",
    "trace_figure",
    "tracking_figure",
    "training_error_figure",
    "weight_figure",
    "write_plot",
]
