#!/usr/bin/env python3
"""Draws the picture of the pipeline that README.md shows: draw-pipeline.py [-o FILE] (default: pipeline.svg here).

Above: what each rank holds and what travels. Below: which chunk of a prompt each rank computes at what time, and the
tokens that follow it.
"""
import argparse
import pathlib
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 960, 470
LEFT, BOARD_WIDTH, BOARD_HEIGHT, GAP = 30, 180, 112, 60
TOP = 66
INK, GREY, BLUE, RED, PALE = "#222222", "#777777", "#4c78a8", "#c44e52", "#eef3f8"
CHUNK_COLOURS = ("#4c78a8", "#6f9ac4", "#95b8d8", "#bcd3e8")
BOARDS = (("rank 0", ("tokenizer", "embedding", "first layers")), ("rank 1", ("next layers",)),
          ("rank 2", ("next layers",)), ("rank 3", ("last layers", "output head", "sampler, drafter")))
CELL, LANE, LANES_TOP, LANES_LEFT = 58, 30, 300, 110


def text(x, y, words, size=14, colour=INK, anchor="middle", weight="normal"):
    return (f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def box(x, y, width, height, fill, stroke=INK):
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}" stroke="{stroke}"/>'


def arrow(points, colour, dashes=""):
    path = " ".join(f"{x},{y}" for x, y in points)
    return (f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}" '
            f'marker-end="url(#{"red" if colour == RED else "blue"})"/>')


def board_x(rank):
    return LEFT + rank * (BOARD_WIDTH + GAP)


def boards():
    for rank, (name, parts) in enumerate(BOARDS):
        x = board_x(rank)
        yield box(x, TOP, BOARD_WIDTH, BOARD_HEIGHT, PALE)
        yield text(x + BOARD_WIDTH / 2, TOP + 22, name, 16, weight="bold")
        for line, part in enumerate(parts):
            yield text(x + BOARD_WIDTH / 2, TOP + 46 + 19 * line, part)
        yield text(x + BOARD_WIDTH / 2, TOP + BOARD_HEIGHT - 10, "KV cache of its layers", 12, GREY)


def messages():
    middle = TOP + BOARD_HEIGHT / 2
    for rank in range(len(BOARDS) - 1):
        yield arrow([(board_x(rank) + BOARD_WIDTH, middle), (board_x(rank + 1) - 3, middle)], BLUE)
    yield text(LEFT, 24, "Activations travel from stage to stage; logits never travel.", 15, BLUE, "start")
    first, last = board_x(0) + BOARD_WIDTH / 2, board_x(3) + BOARD_WIDTH / 2
    below = TOP + BOARD_HEIGHT + 40
    yield arrow([(last, TOP + BOARD_HEIGHT), (last, below), (first, below), (first, TOP + BOARD_HEIGHT + 3)], RED)
    yield text((first + last) / 2, below + 20, "token ids, drafted tokens, verdicts", 14, RED)
    above = TOP - 18
    for rank in (1, 2):
        end, nest = board_x(rank) + BOARD_WIDTH / 2, 8 * (3 - rank)
        yield arrow([(last + nest, TOP), (last + nest, above - nest), (end, above - nest), (end, TOP - 3)], RED, "5 4")
    yield text(board_x(3) + BOARD_WIDTH + 10, 24, "verdicts: which drafted token is right", 13, RED, "end")


def schedule():
    title = "A prompt in four chunks; then segments (s) of drafted tokens, one behind the other"
    yield text(LEFT, LANES_TOP - 16, title, 15, anchor="start")
    for rank in range(len(BOARDS)):
        y = LANES_TOP + rank * LANE
        yield text(LEFT, y + 19, f"rank {rank}", 14, anchor="start")
        for chunk, colour in enumerate(CHUNK_COLOURS):
            x = LANES_LEFT + (chunk + rank) * CELL
            yield box(x, y, CELL - 3, LANE - 6, colour)
            yield text(x + CELL / 2 - 1, y + 17, f"chunk {chunk + 1}", 12, "#ffffff" if chunk < 2 else INK)
        for step in range(4):
            x = LANES_LEFT + (7 + rank + step) * CELL
            yield box(x, y, CELL - 3, LANE - 6, "#f2c9ca", RED)
            yield text(x + CELL / 2 - 1, y + 17, f"s {step + 1}", 12)
    y = LANES_TOP + len(BOARDS) * LANE + 8
    yield arrow([(LANES_LEFT, y), (LANES_LEFT + 14 * CELL, y)], BLUE)
    yield text(LANES_LEFT + 14 * CELL, y + 20, "time", 13, GREY, "end")


def picture():
    def marker(name, colour):
        return (f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{colour}"/></marker>')
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
             f'height="{HEIGHT}" font-family="sans-serif">', "<title>Four ranks as a pipeline</title>",
             f'<defs>{marker("blue", BLUE)}{marker("red", RED)}</defs>',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', *boards(), *messages(), *schedule(), "</svg>"]
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", default=pathlib.Path(__file__).parent / "pipeline.svg", type=pathlib.Path)
    parser.parse_args().output.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
