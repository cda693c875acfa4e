"""Draws what scripts/gpu-check measured beside its limits: an SVG on standard output.

Reads bench_gpu_passes.json and, where there, bench_gpu_llama.json of the directory given. A bar is a pass's time of
what the limit is a share of; a mark stands where it may end at most. Every bar says its figures.
"""

import json
import pathlib
import sys
from html import escape

# name in the results -> what it is called, the share of the limit's speed wanted. `None`: reported, nothing wanted.
SPEEDS = [
    ("gpu_pass/page_cache/all", "all in the page cache", 0.97),
    ("gpu_pass/ram/registered", "weights in RAM, registered", 0.97),
    ("gpu_pass/ring/buffered", "through the ring", 0.95),
    ("gpu_pass/disk/kept:0", "disk, cold", 0.95),
    ("token/page_cache", "Llama, a token, page cache", 0.97),
    ("token/ram", "Llama, a token, RAM", 0.97),
    ("prompt/page_cache", "Llama, 16384 tokens, page cache", 0.98),
    ("prompt/ram", "Llama, 16384 tokens, RAM", 0.98),
    ("gpu_pass/today/double_buffer", "today: all pinned, two buffers", None),
    ("gpu_pass/today/pin_and_copy", "today: pin and copy each tensor", None),
]
WIDTH, ROW, LEFT, RIGHT, TOP = 780, 30, 250, 160, 64
COLOURS = {"met": "#2b6cb0", "short": "#c05621", "today": "#a0aec0"}


def results(directory):
    found = {}
    for name in ("bench_gpu_passes.json", "bench_gpu_llama.json"):
        path = directory / name
        if path.exists():
            try:
                runs = json.loads(path.read_text())["benchmarks"]
            except json.JSONDecodeError:
                sys.exit(f"{path} ends early")
            for run in runs:
                if "ratio" in run:  # a bench that failed has none
                    found[run["name"].split("/iterations")[0]] = run
    return found


def text(x, y, words, anchor="start", colour="#1a202c", size=13):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(words)}</text>'


def main():
    found = results(pathlib.Path(sys.argv[1]))
    rows = [row for row in SPEEDS if row[0] in found]
    height = TOP + ROW * len(rows) + 28
    scale = (WIDTH - LEFT - RIGHT) / 1.05
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        text(16, 26, "Speed of a pass to a GPU, beside its limit", size=16),
        text(16, 46, "the limit: link, source or computing, whichever is slowest, in turns; black mark: wanted",
             colour="#4a5568", size=12),
    ]
    for i, (name, label, wanted) in enumerate(rows):
        run, y = found[name], TOP + ROW * i
        ratio = run["ratio"]
        kind = "today" if wanted is None else "met" if ratio >= wanted else "short"
        out.append(text(LEFT - 10, y + 16, label, anchor="end"))
        out.append(f'<rect x="{LEFT}" y="{y + 3}" width="{min(ratio, 1.05) * scale:.1f}" height="18" '
                   f'fill="{COLOURS[kind]}"/>')
        if wanted is not None:
            mark = LEFT + wanted * scale
            out.append(f'<line x1="{mark:.1f}" x2="{mark:.1f}" y1="{y - 1}" y2="{y + 25}" stroke="#1a202c" '
                       'stroke-width="2"/>')
        out.append(text(WIDTH - RIGHT + 12, y + 16, f'{ratio:.3f}, {run["GiB/s"]:.1f} GiB/s'))
    bottom = TOP + ROW * len(rows)
    out.append(f'<line x1="{LEFT}" x2="{LEFT}" y1="{TOP - 4}" y2="{bottom}" stroke="#4a5568"/>')
    out.append(text(LEFT, bottom + 16, "0", anchor="middle", colour="#4a5568", size=12))
    out.append(text(LEFT + scale, bottom + 16, "the limit", anchor="middle", colour="#4a5568", size=12))
    out.append("</svg>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
