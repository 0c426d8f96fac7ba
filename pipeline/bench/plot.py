"""A report as a picture: how many answers so many clients get, beside what the archive does in process."""

import statistics
from typing import cast

import pygal
from pygal.style import Style

from pipeline.bench.report import Report

# Told apart by people who see fewer colours, too: https://jfly.uni-koeln.de/color/
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_STYLE = Style(
    background="white",
    plot_background="white",
    colors=_COLOURS,
    font_family="sans-serif",
    guide_stroke_color="#dddddd",
    major_guide_stroke_color="#bbbbbb",
)


def plot(report: Report) -> str:
    """An SVG: a line for each protocol and image, answers a second by clients, and one for the limit."""
    closed = [key for key in report.measured() if key[2] is None]
    clients = sorted({str(key[1]) for key in closed}, key=int)
    chart = pygal.Line(
        title=f"{report.model}: answers a second, {report.cpus:g} cores",
        x_title="clients that wait for their answers",
        x_labels=clients,
        width=1000,
        height=600,
        style=_STYLE,
        # A server of a small model gets a hundredth of the limit done, and one of a large model all of it.
        logarithmic=True,
        js=(),
        stroke_style={"width": 2},
        # At the bottom, pygal cuts off what does not fit into one row.
        legend_at_bottom=False,
        truncate_legend=-1,
        value_formatter=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}",
    )
    for image in report.images:
        for protocol in dict.fromkeys(key[0] for key in closed):
            name = f"{protocol}, {image}" if len(report.images) > 1 else protocol
            chart.add(name, [report.row(image, key).throughput for key in closed if key[0] == protocol])
    limit = statistics.median(each.limit for each in report.in_process)
    chart.add(
        "in process, unbatched", [limit] * len(clients), stroke_style={"dasharray": "6, 6", "width": 2}, show_dots=False
    )
    return cast(str, chart.render(is_unicode=True))
