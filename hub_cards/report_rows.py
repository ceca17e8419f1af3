"""How do the numbers of a `report.json` become rows of a table or a leaderboard?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hub_cards.results import Estimate, ResultRow

REPORT_FORMAT = 1


class ReportRow(NamedTuple):
    """A row, and which checkpoint of the report it is about.

    Attributes:
        setting: Name of the setting; None for the base.
        seed: Of the training; None where the report does not say.
        row: The numbers at one frame setting.
    """

    setting: str | None
    seed: int | None
    row: ResultRow


def report_rows(report: Mapping[str, Any]) -> list[ReportRow]:
    """Every checkpoint of a report at every frame setting it was compared at, the base first.

    A change is given only where the base was scored at the same frame setting.

    Args:
        report: Content of `report.json`.

    Raises:
        ValueError: Another format, or something is missing.
    """
    if report.get("format") != REPORT_FORMAT:
        raise ValueError(f"format {report.get('format')!r} of the report is not {REPORT_FORMAT}: make it again")
    try:
        return _rows(report)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"the report is damaged ({type(error).__name__}: {error}): make it again") from error


def _rows(report: Mapping[str, Any]) -> list[ReportRow]:
    base, synthetic = report["base"], bool(report["synthetic"])
    model = display_name(base["model"])
    rows = [
        ReportRow(None, None, _row(sheet, model=model, frames=frames, synthetic=synthetic))
        for frames, sheet in base["at"].items()
    ]
    several = {s["name"] for s in report["settings"] if s["seed"] not in (None, 0)}
    for setting in report["settings"]:
        name, seed = setting["name"], setting["seed"]
        strategy = setting["strategy"]
        trained = f"{setting['frames']} ({strategy})" if strategy else str(setting["frames"])
        sheets = {str(setting["evaluated"]): setting}
        if setting["common"]:
            sheets.setdefault(str(setting["common"]["frames"]), setting["common"])
        for frames, sheet in sheets.items():
            row = _row(
                sheet,
                model=f"{name}, seed {seed}" if name in several else name,
                frames=frames,
                base=model,
                trained=trained,
                compared=frames in base["at"],
                synthetic=synthetic,
            )
            rows.append(ReportRow(name, seed, row))
    return rows


def display_name(model: str) -> str:
    """A model as others may see it: Hub ids and names as they are, of a local folder its last part only.

    Example:
        >>> display_name("Qwen/Qwen2.5-VL-3B-Instruct"), display_name("/data/me/runs/hybrid-s0"), display_name("a/b/c")
        ('Qwen/Qwen2.5-VL-3B-Instruct', 'hybrid-s0', 'c')
    """
    parts = [part for part in model.replace("\\", "/").split("/") if part]
    local = model.startswith(("/", ".", "~")) or len(parts) > 2 or "\\" in model
    return parts[-1] if local and parts else model


def _row(sheet: Mapping[str, Any], *, compared: bool = False, **facts: Any) -> ResultRow:
    return ResultRow(
        image=_estimate(sheet["image"], "score"),
        video=_estimate(sheet["video"], "score"),
        image_change=_estimate(sheet["image_change"], "value") if compared else None,
        video_change=_estimate(sheet["video_change"], "value") if compared else None,
        mean_frames=sheet["mean_frames"],
        items=sheet["n"],
        tasks={
            f"{task}: {ability}": found
            for task, abilities in sheet["abilities"].items()
            for ability, facts_of in abilities.items()
            if (found := _estimate(facts_of, "score"))
        },
        **facts,
    )


def _estimate(found: Mapping[str, Any] | None, key: str) -> Estimate | None:
    if found is None:
        return None
    low, high = found["ci"] or (None, None)
    return Estimate(float(found[key]), low, high)
