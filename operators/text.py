"""A campaign's report as text, for logs, approvals and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow.campaigns import CampaignReport


def report_text(report: CampaignReport) -> str:
    """A report as fixed-width text: a line a label, columns that have anything in them, then the commonest errors."""
    states = [s for s in (report.labels[0].states if report.labels else {}) if any(row.states[s] for row in report.labels)]
    width = max([len(f"{row.step}/{row.label}") for row in report.labels], default=10)
    lines = [f"campaign {report.campaign.name} ({report.campaign.production}): {report.campaign.state}"]
    lines.append(" ".join(["step/task".ljust(width), *(s.rjust(9) for s in states), " EXPECTED"]))
    for row in report.labels:
        counts = [str(row.states[s]).rjust(9) for s in states]
        lines.append(" ".join([f"{row.step}/{row.label}".ljust(width), *counts, str(row.expected).rjust(9)]))
    lines += [f"{e['count']} x {e['step']}/{e['label']} {e['failure_class']}: {e['example']}" for e in report.errors[:10]]
    return "\n".join([*lines, *versions_text(report)])


def versions_text(report: CampaignReport) -> list[str]:
    """Which software and configurations made what is accepted: what a person who approves it must have seen."""
    from workflow.accounting import mixed  # DAG files import this module, and must be read within a second

    found = report.accounting.get("versions", [])
    if not found:
        return []
    if not (labels := mixed(found)):
        digests = sorted({str(v["software"])[:12] for v in found})
        return [f"versions: one for each task (software {', '.join(digests)})"]
    lines = [f"VERSIONS ARE MIXED in {', '.join(labels)}:"]
    for v in found:
        if f"{v['step']}/{v['label']}" in labels:
            differs = ", ".join(f"{package} {number or 'absent'}" for package, number in v["differs"].items())
            software = f"{v['bound'] or ''} {str(v['software'])[:12]}".strip()
            words = f"generation {v['generation']}: {v['quanta']} quanta, software {software}"
            lines.append(f"  {v['step']}/{v['label']} {words}, configuration {str(v['config'])[:12]} {differs}".rstrip())
    fixes = report.accounting["hotfixes"]
    return lines + [f"  hot fix {h['id']} by {h['actor']}: {h['why']} ({h['effect']['quanta']} quanta)" for h in fixes]
