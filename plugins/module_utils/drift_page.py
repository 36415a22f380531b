# SPDX-License-Identifier: Apache-2.0
"""The page of playbook drift: one HTML file about a fleet, which needs no other file and no script.

What devices say is not to be trusted: text is escaped, and the page may load nothing.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils.web_page import HEAD

PAGE = """\
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.4 system-ui, sans-serif }}
body {{ margin: 1rem auto; padding: 0 1rem; max-width: 72rem }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; min-width: 100% }}
caption {{ text-align: left; padding-bottom: .5rem }}
th, td {{ text-align: left; vertical-align: top; white-space: nowrap }}
th, td {{ padding: .375rem .75rem .375rem 0; border-bottom: 1px solid #8886 }}
td.number {{ text-align: right }}
article {{ border-left: .375rem solid #8886; padding-left: .75rem; margin: 2rem 0 }}
article.drifted {{ border-color: #c40 }}
article.converged {{ border-color: #285 }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .25rem .75rem }}
dd {{ margin: 0; overflow-wrap: anywhere }}
a {{ color: inherit }}
img {{ max-width: 100%; border-radius: .25rem }}
svg {{ display: block }}
polyline {{ fill: none; stroke: currentColor; stroke-width: 1.5 }}
</style>
<main>
<h1>{title}</h1>
<p>{summary}</p>
<div class="wide" role="region" aria-label="All devices" tabindex="0">
<table>
<thead><tr><th scope="col">device</th><th scope="col">state</th><th scope="col">differences</th>\
<th scope="col">system</th><th scope="col">free disk</th><th scope="col">swap in use</th>\
<th scope="col">last picture kept</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
{articles}
</main>
</html>
"""
WORDS = {
    "converged": "✓ as it was made",
    "drifted": "✗ drifted",
    "due": "→ to be provisioned",
    "held": "… being provisioned",
    "silent": "? did not answer",
}
WIDTH, HEIGHT = 120, 24
"""Pixels of a sparkline."""


def page(asked_at: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the page about devices: those that need somebody first, then by name."""
    title = f"Drift of {len(reports)} device{'' if len(reports) == 1 else 's'}"
    order = ["drifted", "silent", "due", "held", "converged"]
    shown = sorted(reports, key=lambda report: (order.index(report["state"]), report["host"]))
    counts = [(sum(report["state"] == state for report in shown), word) for state, word in WORDS.items()]
    return HEAD + PAGE.format(
        title=title,
        summary=_text(f"Asked {asked_at}: {', '.join(f'{count} {word[2:]}' for count, word in counts if count)}."),
        rows="\n".join(map(_row, shown)),
        articles="\n".join(map(_article, shown)),
    )


def drift_state(probe: Mapping[str, Any]) -> str:
    """Return what a probe says of a device; WORDS has the states."""
    if "checked" not in probe:
        return "silent"
    if probe.get("held"):
        # What differs meanwhile is that run's work.
        return "held"
    if probe["differences"]:
        return "drifted"
    return "due" if probe["run"] else "converged"


def other_reasons(run: Mapping[str, str], differences: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return why roles would run, beside what differs and has a line of its own."""
    told = [each["told"] for each in differences]
    return [
        (role, part)
        for role, reason in run.items()
        for part in reason.split("; ")
        if not any(part in each for each in told)
    ]


def _row(report: Mapping[str, Any]) -> str:
    known = report["about"]
    cells = [
        f'<th scope="row"><a href="#{_text(report["host"])}">{_text(report["host"])}</a></th>',
        f"<td>{WORDS[report['state']]}</td>",
        f'<td class="number">{len(report["differences"])} of {report["checked"]}</td>',
    ]
    if not known:
        return f"<tr>{''.join([*cells[:2], '<td></td>' * 5])}</tr>"
    used = known["swap_mib"] - known["swap_free_mib"]
    cells += [
        f"<td>{_text(known['system'])}</td>",
        f"<td>{known['disk_free_mib']} MiB of {known['disk_mib']}{_sparkline(report['free_disk'])}</td>",
        f"<td>{used} MiB of {known['swap_mib']}</td>",
        f"<td>{_text(_picture(known))}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _article(report: Mapping[str, Any]) -> str:
    parts = [f"<h2>{_text(report['host'])}: {WORDS[report['state']][2:]}</h2>"]
    parts += [f"<p>{_text(reason)}</p>" for reason in report["reboot_reasons"]]
    other = other_reasons(report["roles"], report["differences"])
    if report["roles"]:
        parts.append("<h3>What differs</h3>")
        parts.append(_terms([*other, *((each["role"], difference(each)) for each in report["differences"])]))
    known = report["about"]
    if known:
        parts.append("<h3>What it is</h3>")
        about = [("system", known["system"]), ("board", known["model"]), ("kernel", known["kernel"])]
        about += [(name, release) for name, release in known["releases"].items()]
        about += [("recorded", report["recorded_at"] or "never"), ("asked", report["asked_at"])]
        about += [("last picture", _picture(known))]
        parts.append(_terms((name, value) for name, value in about if value))
        if known["picture"].get("thumbnail"):
            source = f"data:image/jpeg;base64,{_text(known['picture']['thumbnail'])}"
            parts.append(f'<img src="{source}" alt="{_text(report["host"])}, {_text(_picture(known))}">')
    return f'<article class="{report["state"]}" id="{_text(report["host"])}">\n' + "\n".join(parts) + "\n</article>"


def difference(each: Mapping[str, str]) -> str:
    """Return one difference in words."""
    return f"{each['told']}, since {each['since']}" if each["since"] else each["told"]


def _picture(known: Mapping[str, Any]) -> str:
    picture = known["picture"]
    return f"{picture['prediction']}, {picture['time']}" if picture else "none"


def _terms(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in pairs) + "</dl>"


def _sparkline(history: Sequence[tuple[str, int]]) -> str:
    """Return free disk over the reports as a line; nothing as long as there is no second report."""
    values = [value for _, value in history]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    across, up = (WIDTH - 2) / (len(values) - 1), (HEIGHT - 2) / ((high - low) or 1)
    points = " ".join(f"{1 + n * across:.1f},{HEIGHT - 1 - (value - low) * up:.1f}" for n, value in enumerate(values))
    label = f"Free disk in {len(values)} reports: between {low} and {high} MiB"
    return (
        f'<svg role="img" aria-label="{label}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<polyline points="{points}"/></svg>'
    )


def _text(value: object) -> str:
    return html.escape(str(value))
