#!/usr/bin/env python3
"""Draws README.md's table of results beside llama.cpp: draw-comparison.py [-o FILE] (default: comparison.svg here).

The data are the rows of the table between the comments "comparison" and "end of comparison" in README.md: model, test,
tokens/s of llama.cpp and of Jupiter for each number of threads. So a new table needs no other change than this drawing.
"""
import argparse
import pathlib
import re
import sys
from xml.sax.saxutils import escape

ROOT = pathlib.Path(__file__).resolve().parents[2]
BAR, ROW = 15, 40  # heights in pixels
LEFT, WIDTH, BARS = 230, 760, 430
COLOURS = {"llama.cpp": "#b0b0b0", "Jupiter": "#4c78a8"}


def read_table(document):
    """A dictionary a row: its cells by the names of the columns."""
    found = re.search(r"<!-- comparison -->(.*)<!-- end of comparison -->", document, re.DOTALL)
    if not found:
        sys.exit("draw-comparison: README.md: expected a table between the comments of the comparison, found none")
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(names, row)) for row in rows]


def number(cell):
    """The first number of a cell; a spread may follow it."""
    return float(re.search(r"\d+(\.\d+)?", cell)[0])


def values(row):
    """Threads and tokens/s of both, for each number of threads: ("1 thread", llama.cpp, Jupiter)."""
    for name, cell in row.items():
        threads = re.fullmatch(r"llama\.cpp, (.+)", name)
        if threads:
            yield threads[1], number(cell), number(row[f"Jupiter, {threads[1]}"])


def text(x, y, words, size=13, anchor="start", weight="normal"):
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="#222222" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def bars(y, ours, theirs):
    """Two bars; the longer one of each pair has the full length, so a prompt and a token can stand in one picture."""
    for name, rate in (("llama.cpp", theirs), ("Jupiter", ours)):
        length = BARS * rate / max(ours, theirs)
        yield f'<rect x="{LEFT}" y="{y:g}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[name]}"/>'
        note = f"{rate:g}" + (f"  ({ours / theirs:.2f}x)" if name == "Jupiter" else "")
        yield text(LEFT + length + 6, y + 12, note, 12)
        y += BAR + 1


def picture(rows):
    parts, y, model = [], 56, None
    for row in rows:
        if row["model"] and row["model"] != model:
            model = row["model"]
            y += 22 if parts else 0
            parts.append(text(16, y, model, 14, weight="bold"))
            y += 10
        for threads, theirs, ours in values(row):
            parts.append(text(LEFT - 10, y + 20, f"{row['test']}, {threads}", anchor="end"))
            parts.extend(bars(y, ours, theirs))
            y += ROW
    legend = []
    for i, (name, colour) in enumerate(COLOURS.items()):
        legend.append(f'<rect x="{LEFT + 110 * i}" y="14" width="14" height="14" fill="{colour}"/>')
        legend.append(text(LEFT + 110 * i + 20, 26, name))
    legend.append(text(WIDTH - 16, 26, "tokens/s, each pair to its own scale", 12, "end"))
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 4}" width="{WIDTH}" height="{y + 4}" '
            f'font-family="sans-serif">\n<title>Jupiter beside llama.cpp on one machine</title>\n'
            f'<rect width="{WIDTH}" height="{y + 4}" fill="#ffffff"/>')
    return "\n".join([head, *legend, *parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", default=ROOT / "jobs" / "bench" / "comparison.svg", type=pathlib.Path)
    output = parser.parse_args().output
    output.write_text(picture(read_table((ROOT / "README.md").read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
