"""How the doctor tells what it found: a line for each thing, or JSON for a program."""

from __future__ import annotations

import json

from tidemill.doctor.symptom import Exit, Report


def as_text(report: Report) -> str:
    """One line for every fact and every symptom: what it is about, what it means, what to do."""
    width = max((len(label) for label, _ in report.facts), default=0)
    lines = [f"{label:<{width}}  {text}" for label, text in report.facts]
    if report.symptoms or report.done:
        lines.append("")
    lines += [f"{one.code}  {one.about}: {one.meaning}. To do: {one.remedy}." for one in report.symptoms]
    lines += [f"done  {what}" for what in report.done]
    lines.append("")
    lines.append(_verdict(report))
    return "\n".join(lines)


def as_json(report: Report) -> str:
    return json.dumps(
        {
            "exitCode": int(report.exit_code),
            "facts": [{"label": label, "text": text} for label, text in report.facts],
            "findings": [
                {"code": one.code, "about": one.about, "meaning": one.meaning, "remedy": one.remedy}
                for one in report.symptoms
            ],
            "done": report.done,
            "blind": report.blind or None,
        },
        ensure_ascii=False,
        indent=2,
    )


def _verdict(report: Report) -> str:
    many = len(report.symptoms)
    found = "Nothing is wrong" if not many else f"{many} finding{'s' if many > 1 else ''}"
    if report.exit_code is Exit.BLIND:
        return f"{found}, but not everything could be looked at: {report.blind}."
    return f"{found}."
