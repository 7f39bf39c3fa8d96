"""How far a run's gates open in each layer, as one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev

from graftlm.core.files import write_text

Table = Mapping[str, Mapping[str, Sequence[float]]]


def by_layer(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """`layer.role.part` -> values, as {layer: {role.part: values}}; a gate outside the layers has the layer "-"."""
    table: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in found.items():
        words = name.split(".")
        place = next((place for place, word in enumerate(words) if word.isdigit()), None)
        layer = "-" if place is None else ".".join(words[: place + 1])
        rest = words if place is None else words[place + 1 :]
        table.setdefault(layer, {})[".".join(rest)] = values
    return table


def write(path: Path, table: Table) -> None:
    """A line for each part over the layers, with the deviation over the texts as bars."""
    import plotly.graph_objects as graphs

    figure = graphs.Figure()
    for part in dict.fromkeys(part for row in table.values() for part in row):
        own = {layer: row[part] for layer, row in table.items() if part in row}
        figure.add_scatter(
            x=list(own),
            y=[mean(values) for values in own.values()],
            error_y={"array": [pstdev(values) for values in own.values()], "thickness": 1},
            name=part,
            mode="lines+markers",
        )
    figure.update_layout(
        title="How far each gate opens: mean and deviation over the texts",
        xaxis={"title": "layer", "type": "category"},
        yaxis={"title": "gate", "range": [0, 1]},
        template="plotly_white",
    )
    write_text(path, figure.to_html(include_plotlyjs=True))
