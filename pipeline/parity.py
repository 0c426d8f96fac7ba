"""The parity of an archive as a table: every stage from the trained model to the wire, output by output."""

from collections.abc import Iterator, Sequence

from pipeline.artifacts import Archive, Deviation, Verdict

_HEAD = ("stage", "output", "max abs", "max rel", "bit-equal", "same answer")


def table(archive: Archive, verdicts: Sequence[Verdict] = ()) -> list[str]:
    """A row for each stage and output, with the largest differences to the trained model over samples and probes.

    The stages at export are the archive's own; a check adds its replay in the runtime image, and a smoke the answers
    over the wire, where `verdicts` have them. A dash stands for what was not measured or makes no sense.
    """
    rows: list[tuple[str, ...]] = [_HEAD]
    for stage, outputs in archive.parity.items():
        rows += [(stage, output, *_figures(deviation)) for output, deviation in outputs.items()]
    for verdict in verdicts:
        prefix = "wire." if verdict.gate == "smoke" else ""
        stage = "wire" if verdict.gate == "smoke" else verdict.gate
        for tensor in archive.trained.spec.outputs:
            if f"{prefix}{tensor.name}.max_abs" in verdict.measured:
                rows.append((stage, tensor.name, *_measured(verdict, f"{prefix}{tensor.name}")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return list(_lines(rows, widths))


def _lines(rows: Sequence[tuple[str, ...]], widths: Sequence[int]) -> Iterator[str]:
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _figures(deviation: Deviation) -> tuple[str, ...]:
    agreement = "-" if deviation.agreement is None else _share(deviation.agreement)
    return f"{deviation.absolute:.2g}", f"{deviation.relative:.2g}", "yes" if deviation.equal else "no", agreement


def _measured(verdict: Verdict, name: str) -> tuple[str, ...]:
    """The same from what a gate measured, which has not always everything."""
    measured = verdict.measured
    equal, agreement = measured.get(f"{name}.equal"), measured.get(f"{name}.agreement")
    return (
        f"{measured[f'{name}.max_abs']:.2g}",
        f"{measured[f'{name}.max_rel']:.2g}",
        "-" if equal is None else "yes" if equal else "no",
        "-" if agreement is None else _share(agreement),
    )


def _share(agreement: float) -> str:
    """In per cent; 100 only where every row agrees."""
    return "100 %" if agreement == 1 else f"{min(100 * agreement, 99.99):.2f} %"
