"""Pictures of plain arrays: scales of axes, curves, stems and bands. Needs matplotlib."""
