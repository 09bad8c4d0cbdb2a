"""`foster tune`. In: a table of interactions. Out: settings for `foster distill`, chosen on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from foster_cli.commands.from_settings import Asked, Data, SettingsFile, asks, opt


@asks("tune", "device", "json")
def command(
    data: Data,
    asked: Asked,
    trials: Annotated[
        int, opt("--trials", "Number of distillations, including the one with the settings as given.", min=1)
    ] = 20,
    timeout: Annotated[float | None, opt("--timeout", "Seconds after which no new trial starts.", min=0)] = None,
    settings: SettingsFile = None,
    students: Annotated[
        int, opt("--seeds", "Fresh models to compare the best trials with the settings as given.", min=1)
    ] = 5,
    out: Annotated[
        Path | None, opt("--out", "Folder of the study and its answer; by default runs/<data>-tune-b<budget>.")
    ] = None,
) -> None:
    """Choose the settings of a distillation on validation.

    Optuna searches the learning rates of phi and the students, tau (steps between resets) and the gain; with
    "outer": "bome" in --settings also the rates of D~ and the inner steps, T (inner steps), eta and lambda (L_DH).
    Trial 0 has the settings as given. A trial that falls behind at
    a validation is stopped. Then fresh models, the same for each, are trained on the best three trials and trial 0.
    If none is better than trial 0, the answer is the settings as given. The test split is not read.

    Writes settings.json (for foster distill --settings), tune.json and trials.csv into the folder. After Ctrl-C, the
    same command continues with the same trials. Needs optuna: pip install 'foster-cli[tune]'.

    Example: foster tune games.parquet --trials 20, then: foster distill games.parquet --settings
    runs/games-tune-b20/settings.json
    """
    from dataclasses import replace

    from foster_cli.baselines import adapted
    from foster_cli.commands import shared
    from foster_cli.distill.checks import check_settings
    from foster_cli.tune import need_optuna

    need_optuna()
    from foster_cli.tune.run import tune
    from foster_cli.tune.trial import SearchPlan

    asked = asked.beneath(settings)
    asked = replace(asked, settings=adapted(asked.settings))
    check_settings(asked.settings)
    with shared.begin(data, asked, out, "tune") as begun:
        found = tune(SearchPlan(begun.data, begun.settings, begun.session, begun.out, trials, timeout, students))
    if asked.json:
        shared.print_json(found)
        return
    show(begun.session.console, found)
    file = begun.out / "settings.json"
    begun.session.console.result(f"next: foster distill {' '.join(map(str, data))} --settings {file}")


def show(console: Any, found: dict[str, Any]) -> None:
    """Print the confirmed trials and the answer."""
    from foster_cli.evaluate.formats import protocol_words

    rows = []
    for row in found["confirmed"]:
        against = row.get("minus_given")
        interval = f" [{against['low']:+.4f}, {against['high']:+.4f}]" if against and against["low"] is not None else ""
        name = f"trial {row['trial']}" + (" (as given)" if against is None else "")
        rows.append([name, f"{row['mean']:.4f}", "-" if against is None else f"{against['mean']:+.4f}{interval}"])
    if rows:
        over = f"validation R@10 over the cases {protocol_words(found['given']['ranking'])}"
        title = f"{over}, of {found['students']} fresh models; difference with a 95 % interval over them"
        console.table(title, ["", "R@10", "minus as given"], rows)
    answer = found["answer"]
    if answer["as_given"]:
        console.result(f"no trial of {len(found['trials'])} is better than the settings as given: they are the answer")
        return
    changed = ", ".join(f"{name} {value:g}" for name, value in answer["changed"].items())
    console.result(f"the answer is trial {answer['trial']}: {changed}")
    if answer["best_step"] == 0:
        console.result("its best D~ is its starting point: only student.lr and distill.gain had a part in it")
    against = next(row for row in found["confirmed"] if row["trial"] == answer["trial"])["minus_given"]
    if against["low"] is None or against["low"] <= 0:
        console.result("these models do not tell it apart from the settings as given: its interval holds 0")
