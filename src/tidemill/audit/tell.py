"""How the audit tells what it compared and what differs."""

from __future__ import annotations

from tidemill.audit.findings import Findings
from tidemill.model.money import shown


def as_text(findings: Findings, currency: str) -> str:
    """A line for everything that was counted, one for each difference, and the verdict."""
    facts = [(word, f"{many:,}") for word, many in findings.counts.items()]
    facts += [
        (account, f"{'-' if amount < 0 else ''}{shown(abs(amount))} {currency}")
        for account, amount in sorted(findings.sums.items())
    ]
    width = max((len(label) for label, _ in facts), default=0)
    lines = [f"{label:<{width}}  {text}" for label, text in facts]
    lines.append("")
    lines += [f"DIFFERENCE  {one.about}: {one.meaning}" for one in findings.differences]
    if not findings.many:
        return "\n".join([*lines, "Everything agrees, to the micro-unit."])
    if findings.many > len(findings.differences):
        lines.append(f"and {findings.many - len(findings.differences):,} more.")
    return "\n".join([*lines, f"{findings.many:,} differences."])
