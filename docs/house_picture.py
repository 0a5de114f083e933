"""Draws the house from its imports: `make house` writes a picture and a text of each package.

The text says which modules stand in which wing and which wings each uses; a test holds it against
the sources, so that a picture that is no longer true is noticed.
"""

from __future__ import annotations

import graphlib
from pathlib import Path

from docs import house

IMAGES = Path(__file__).parent / "images"
ROOT_WING = "root"
_COLUMNS, _WIDTH, _ROW = 5, 10.0, 0.42


def wings(package: str, imports: house.Imports) -> dict[str, list[str]]:
    """Modules by wing, from the ground up, wings of one floor in the order of `FLOORS`."""
    order = [wing for floor in house.FLOORS[package] for wing in floor] + [""]
    found: dict[str, list[str]] = {wing or ROOT_WING: [] for wing in order}
    for module in imports:
        if house.package(module) == package and not _is_contents(module):
            wing = house.wing(module)
            name = module.removeprefix(f"{package}.").removeprefix(f"{wing}.").split(".")[0]
            if name not in found[wing or ROOT_WING]:  # a folder in a wing is one box
                found[wing or ROOT_WING].append(name)
    return found


def arrows(package: str, imports: house.Imports) -> dict[str, set[str]]:
    """The wings that each wing uses, in their order."""
    used: dict[str, set[str]] = {wing: set() for wing in wings(package, imports)}
    for module, others in imports.items():
        for other in others:
            ends = [house.wing(name) or ROOT_WING for name in (module, other)]
            if {house.package(module), house.package(other)} == {package} and ends[0] != ends[1]:
                used[ends[0]].add(ends[1])
    return used


def shortened(used: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that a way over other wings says as well."""
    below: dict[str, set[str]] = {}
    for wing in graphlib.TopologicalSorter(used).static_order():
        below[wing] = used[wing].union(*(below[other] for other in used[wing]))
    return {
        wing: {a for a in others if not any(a in below[b] for b in others)}
        for wing, others in used.items()
    }


def text(imports: house.Imports) -> str:
    """The house in words, from the ground up."""
    lines = []
    for package in house.FLOORS:
        used = arrows(package, imports)
        for wing, modules in wings(package, imports).items():
            lines.append(f"{package} {wing}: {', '.join(modules)}")
            lines += [f"    uses {', '.join(sorted(used[wing]))}"] * bool(used[wing])
    return "\n".join(lines) + "\n"


def draw(package: str, imports: house.Imports, path: Path) -> None:
    """A band for each wing, a box for each module, an arrow to each wing that is used directly."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    rooms = {wing: names for wing, names in wings(package, imports).items() if names}
    heights = [0.75 + _ROW * -(-len(names) // _COLUMNS) for names in rooms.values()]
    figure, axes = pyplot.subplots(figsize=(12, 0.72 * sum(heights) + 0.4 * len(heights)))
    middles, y = {}, 0.0
    for (wing, names), height in zip(rooms.items(), heights, strict=True):
        axes.add_patch(
            FancyBboxPatch((0, y), _WIDTH, height, "round,pad=0.05", fc="#eef2f7", ec="#8494a8")
        )
        axes.text(0.1, y + height - 0.18, wing, weight="bold", size=12, va="center")
        for number, name in enumerate(names):
            row, column = divmod(number, _COLUMNS)
            corner = (0.1 + column * 1.98, y + height - 0.78 - row * _ROW)
            axes.add_patch(
                FancyBboxPatch(corner, 1.8, 0.3, "round,pad=0.02", fc="white", ec="#b4c0ce")
            )
            axes.text(corner[0] + 0.9, corner[1] + 0.15, name, size=8.5, ha="center", va="center")
        middles[wing] = y + height / 2
        y += height + 0.35
    for wing, others in shortened(arrows(package, imports)).items():
        for other in others & middles.keys():
            start, end = (_WIDTH + 0.08, middles[wing] - 0.1), (_WIDTH + 0.08, middles[other] + 0.1)
            bend = -0.35 if start[1] - end[1] < 2.5 else -0.22
            axes.add_patch(
                FancyArrowPatch(
                    start,
                    end,
                    arrowstyle="-|>",
                    mutation_scale=12,
                    connectionstyle=f"arc3,rad={bend}",
                    color="#3b5b85",
                )
            )
    axes.set(xlim=(-0.2, _WIDTH + 2.2), ylim=(-0.2, y))
    axes.set_axis_off()
    figure.savefig(path, dpi=90, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Write `images/house.txt` and a picture of each package."""
    imports = house.imports()
    for package in house.FLOORS:
        draw(package, imports, IMAGES / f"house_{package}.png")
    (IMAGES / "house.txt").write_text(text(imports), encoding="utf-8")


def _is_contents(module: str) -> bool:
    """Whether it is the contents page of a wing, which the band itself stands for."""
    return module.count(".") == 1 and bool(house.wing(module)) and _is_folder(module)


def _is_folder(module: str) -> bool:
    return (house.ROOT / module.replace(".", "/")).is_dir()


if __name__ == "__main__":
    main()
