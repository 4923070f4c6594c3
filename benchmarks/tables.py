"""Make the tables and curves of the paper out of the runs that paper.py keeps."""

from __future__ import annotations

import json
import statistics

BEGIN, END = "<!-- written by benchmarks/paper.py -->", "<!-- to here -->"

JUDGES = ("I alone", "D alone", "both")

# EER in % as printed (Table 1, Table 2, Sec. 4.2); the paper judges I by frames, D by pixels.
PUBLISHED = {
    "ped1": {"frame": {"I alone": 17.3, "both": 12.3}, "pixel": {"D alone": 16.7, "both": 14.4}},
    "ped2": {"frame": {"I alone": 17.8, "both": 14.0}, "pixel": {"D alone": 17.2, "both": 15.0}},
    "umn": {"frame": {"D alone": 2.6}},
    "ir_mnist": {"frame": {"both": 21.0}, "cell": {"both": 29.0}},
}
PUBLISHED_AUC = {"umn": {"frame": {"D alone": 99.6}}}

TITLES = {"frame": "frame or image", "pixel": "pixel (PAMI 2014, 40 %)", "cell": "cell"}


def read(folder):
    """Group the kept runs by data set and form; the runs of a group differ in their seed."""
    groups = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        groups.setdefault((run["set"], run["form"]), []).append(run)
    return groups


def spread(values, scale=100, digits=1):
    """Write a median, and the range where there are several seeds."""
    middle = f"{scale * statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({scale * min(values):.{digits}f} to {scale * max(values):.{digits}f})"


def summary(run):
    """Say in a few lines what a run gave."""
    lines = []
    for level, table in run["levels"].items():
        for judge, figures in table.items():
            lines.append(
                f"{level:6} {judge:8} EER {100 * figures['eer']:5.1f} %  AUC {figures['auc']:.3f}"
            )
    alarms = run["thresholds"]
    lines.append(
        f"alarms on normal test images {alarms['alarms']:.1%}, asked {alarms['target_fpr']:.0%}; "
        f"irregular ones found {alarms['found']:.1%}"
    )
    return "\n".join(lines)


def markdown(groups):
    """Write every table as one page of Markdown."""
    lines = [
        "# The paper's tables on our networks",
        "",
        "Written by `benchmarks/paper.py` from the runs kept beside this page. EER and AUC in %, "
        "median and range over seeds. *Printed* is what the paper prints for the same data and "
        "level, where it does (Table 1, Table 2, Sec. 4.2). No test label chose anything within a "
        "run. The curves are Fig. 6: along the ray of both thresholds, and the best that any pair "
        "of them could reach. The pictures show what Figs. 3, 4, 5 and 7 show: what I makes of "
        "what is odd, the masks, and O (yellow is regular here).",
        "",
    ]
    for (name, form), runs in groups.items():
        first = runs[0]
        seconds = spread([run["seconds"]["fit"] for run in runs], 1, 0)
        where = first["environment"]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        commits = ", ".join(dict.fromkeys(run["environment"]["commit"] for run in runs))
        settings = ", ".join(f"`{name}={value!r}`" for name, value in first["parameters"].items())
        lines += [
            f"## {name}, {form}",
            "",
            f"Protocol: {first['protocol']}.",
            "",
            f"Seeds {seeds}; {seconds} s of training on {where['device']} with {where['threads']} "
            f"threads, torch {where['torch']}, commit {commits}. Parameters beside the "
            f"defaults: {settings or 'none'}.",
            "",
            "| level | judged by | EER | printed | AUC | more |",
            "|---|---|---|---|---|---|",
        ]
        for level in first["levels"]:
            for judge in JUDGES:
                lines.append(_row(name, level, judge, runs))
        alarms = spread([run["thresholds"]["alarms"] for run in runs])
        asked = 100 * first["thresholds"]["target_fpr"]
        found = [run["thresholds"]["found"] for run in runs if "found" in run["thresholds"]]
        of_irregular = f" Irregular ones found: {spread(found)} %." if found else ""
        lines += [
            "",
            *_epochs(runs),
            f"Alarms on normal test images: {alarms} %, asked for: {asked:g} %.{of_irregular}",
            "",
            f"![Curves of {name}]({name}-{form}-curves.png)",
            "",
            f"![What the networks see of {name}]({name}-{form}.png)",
            "",
        ]
    return "\n".join(lines)


def _epochs(runs):
    """Say what the choice of epochs without labels was worth, and whether a network collapsed."""
    runs = [run for run in runs if run.get("by_epoch")]
    if not runs:
        return []
    lines = [
        "By epoch, on every so many-th test image (AUC over regions; nothing was chosen by it):",
        "",
        "| network | kept from epoch | AUC there | best epoch's AUC | largest fall after it |",
        "|---|---|---|---|---|",
    ]
    for name, judge in (("inpainter", "I alone"), ("detector", "D alone")):
        kept = [run["checkpoint"][name]["epoch"] for run in runs]
        rows = [[epoch[judge]["region"] for epoch in run["by_epoch"]] for run in runs]
        there = [row[epoch - 1] for row, epoch in zip(rows, kept, strict=True)]
        falls = [
            max(0.0, row[epoch - 1] - min(row[epoch - 1 :]))
            for row, epoch in zip(rows, kept, strict=True)
        ]
        lines.append(
            f"| {judge[0]} | {spread(kept, 1, 0)} of {len(rows[0])} | {spread(there)} | "
            f"{spread([max(row) for row in rows])} | {spread(falls)} |"
        )
    return [*lines, ""]


def overview(groups):
    """Write one line per data set and level, for the README: full runs, and those over pixels."""
    lines = [
        "| data | level | I alone | D alone | both | printed (both) |",
        "|---|---|---|---|---|---|",
    ]
    chosen = {key: runs for key, runs in groups.items() if key[1] in ("full", "pixels")}
    for key, runs in groups.items():
        if key[0] not in {name for name, _ in chosen}:
            chosen[key] = runs
    for (name, form), runs in sorted(chosen.items()):
        for level in runs[0]["levels"]:
            printed = PUBLISHED.get(name, {}).get(level, {}).get("both")
            eers = [
                spread([run["levels"][level][judge]["eer"] for run in runs]) for judge in JUDGES
            ]
            lines.append(
                f"| {name}, {form} | {TITLES[level]} | {' | '.join(eers)} | "
                f"{'' if printed is None else f'{printed:g}'} |"
            )
    return "\n".join(lines)


def fill(text, groups):
    """Put the overview between the marks of a page."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{overview(groups)}\n\n{END}{after}" if rest else text


def _row(name, level, judge, runs):
    figures = [run["levels"][level][judge] for run in runs]
    printed = PUBLISHED.get(name, {}).get(level, {}).get(judge)
    area = PUBLISHED_AUC.get(name, {}).get(level, {}).get(judge)
    more = []
    for key, title in (("macro_auc", "macro AUC"), ("dual_eer", "dual EER"), ("aupro", "AUPRO")):
        if key in figures[0]:
            more.append(f"{title} {spread([one[key] for one in figures])}")
    for kind in figures[0].get("kinds", {}):
        more.append(f"{kind} {spread([one['kinds'][kind] for one in figures])}")
    return " | ".join(
        [
            f"| {TITLES[level]}",
            judge,
            spread([one["eer"] for one in figures]),
            "" if printed is None else f"{printed:g}",
            spread([one["auc"] for one in figures])
            + ("" if area is None else f" (printed {area:g})"),
            "; ".join(more) + " |",
        ]
    )


def draw_curves(run, path):
    """Draw Fig. 6: detection and localisation, along the ray and over the plane."""
    from matplotlib import pyplot

    panels = {title: lines for title, lines in run["curves"].items() if lines}
    by_epoch = run.get("by_epoch") or []
    n_panels = len(panels) + bool(by_epoch)
    figure, axes = pyplot.subplots(
        1, n_panels, figsize=(4.6 * n_panels, 4.4), layout="constrained", squeeze=False
    )
    styles = {
        "I alone": ("#999999", "--"),
        "D alone": ("#555555", ":"),
        "both": ("#0b5394", "-"),
        "both, any alpha and zeta": ("#e69f00", "-."),
    }
    for ax, (title, lines) in zip(axes[0], panels.items(), strict=False):
        for name, curve in lines.items():
            colour, style = styles[name]
            ax.plot(curve["fpr"], curve["tpr"], style, color=colour, label=name, linewidth=1.8)
        ax.plot([0, 1], [1, 0], color="#cccccc", linewidth=0.8)
        ax.set(
            title=f"{run['set']}: {title}",
            xlabel="share of normal ones flagged",
            ylabel="share of irregular ones found",
            xlim=(0, 1),
            ylim=(0, 1.01),
            aspect="equal",
        )
        ax.legend(loc="lower right", frameon=False)
    if by_epoch:
        ax = axes[0, -1]
        epochs = range(1, len(by_epoch) + 1)
        for judge, network in (("I alone", "inpainter"), ("D alone", "detector"), ("both", None)):
            colour, style = styles[judge]
            aucs = [row[judge]["region"] for row in by_epoch]
            ax.plot(epochs, aucs, style, color=colour, label=judge, linewidth=1.8)
            if network is not None:
                kept = run["checkpoint"][network]["epoch"]
                ax.plot(kept, aucs[kept - 1], "o", color=colour)
        ax.set(
            title=f"{run['set']}: by epoch (dots: kept)", xlabel="epoch", ylabel="AUC over regions"
        )
        ax.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def write(folder):
    """Write the page and one picture of curves a group; return their paths."""
    groups = read(folder)
    page = folder / "tables.md"
    page.write_text(markdown(groups))
    written = [page]
    for (name, form), runs in groups.items():
        path = folder / f"{name}-{form}-curves.png"
        draw_curves(runs[0], path)
        written.append(path)
    return written
