"""`foster tune`: a table of interactions in; settings for `foster distill`, chosen on validation, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foster_cli.commands import options
from foster_cli.commands.settings import NO_CONTEXT, AlphaOption, LoraOption, PoolingOption, opt
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig

_D, _M, _T, _S = DistillConfig(), ModelConfig(), TrainConfig(), StudentConfig()


def command(
    data: options.Data,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Distillations in all, the one with the settings as given included.")
    ] = 20,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Seconds after which no new trial starts.")
    ] = None,
    settings_file: Annotated[
        Path | None, opt("--settings", "A file of settings to start from; options that are typed win.")
    ] = None,
    students: Annotated[
        int, typer.Option("--seeds", min=1, help="Fresh models that confirm the best trials against what was given.")
    ] = 5,
    out: Annotated[
        Path | None, opt("--out", "Folder of the study and its answer; runs/<data>-tune-b<budget> without it.")
    ] = None,
    budget: Annotated[int, opt("--budget", "M, synthetic sequences.")] = _D.budget,
    length: options.Length = _D.length,
    steps: Annotated[int, opt("--steps", "K, outer steps of a trial.")] = _D.steps,
    check_every: Annotated[
        int, opt("--check-every", "Outer steps between validations; at each of them a trial may be given up.")
    ] = _D.check_every,
    draws: Annotated[int, opt("--draws", "Draws tried for the start.")] = _D.draws,
    student_steps: options.StudentSteps = _S.steps,
    encoder: options.Encoder = _M.encoder,
    pooling: PoolingOption = None,
    backbone: options.Backbone = _M.backbone,
    items: options.Items = _M.items,
    train_layers: options.TrainLayers = _M.train_layers,
    lora: LoraOption = None,
    lora_alpha: AlphaOption = None,
    width: options.Width = None,
    precision: options.Precision = _M.precision,
    epochs: options.Epochs = _T.epochs,
    seed: Annotated[int, opt("--seed", "Fixes the result on a given machine.")] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
    user_column: options.UserColumn = None,
    item_column: options.ItemColumn = None,
    time_column: options.TimeColumn = None,
    text_columns: options.TextColumns = None,
    split_column: options.SplitColumn = None,
    k_core: options.KCore = None,
    ctx: typer.Context = NO_CONTEXT,
) -> None:
    """Choose the settings of a distillation on validation.

    Optuna searches the rates of D~, phi, the inner steps and the students, T (inner steps), tau (steps between resets),
    eta, lambda (L_DH) and the gain. Trial 0 is the settings as given. A trial that falls behind at a validation is
    given up. The best three and trial 0 then train the same fresh models; unless one comes out above trial 0, the
    answer is the settings as given. The test split is not read.

    Writes settings.json (for foster distill --settings), tune.json and trials.csv into the folder. After Ctrl-C, the
    same command goes on, with the same trials as without. Needs optuna: pip install 'foster-cli[tune]'.

    Example: foster tune games.parquet --trials 20, then: foster distill games.parquet --settings
    runs/games-tune-b20/settings.json
    """
    import json as json_module
    import sys

    from foster_cli.commands import settings
    from foster_cli.commands.settings_file import beneath
    from foster_cli.distill.pipeline import check_settings
    from foster_cli.tune import need_optuna

    need_optuna()
    from foster_cli.tune.run import tune
    from foster_cli.tune.trial import Plan

    model = ModelConfig(
        encoder=encoder, backbone=backbone, items=items, train_layers=train_layers, width=width, precision=precision,
        pooling=pooling, lora=lora, lora_alpha=lora_alpha,
    )  # fmt: skip
    config = DistillConfig(budget=budget, length=length, steps=steps, check_every=check_every, draws=draws)
    model, train, config, student = beneath(
        ctx, settings_file, model, TrainConfig(epochs=epochs), config, StudentConfig(steps=student_steps)
    )
    check_settings(model, train, config, student)
    prepare = settings.prepare_settings(user_column, item_column, time_column, text_columns, split_column, k_core)
    begun = options.begin(data, device, out, "tune", config.budget, prepare)
    plan = Plan(
        begun.data, begun.paths, prepare, model, train, config, student, seed, begun.device, begun.out, trials, timeout,
        students,
    )  # fmt: skip
    found = tune(plan, begun.console)
    if json:
        sys.stdout.write(json_module.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return
    show(begun.console, found)
    begun.console.result(f"next: foster distill {' '.join(map(str, data))} --settings {begun.out / 'settings.json'}")


def show(console: Any, found: dict[str, Any]) -> None:
    """The confirmed trials and the answer, for a person."""
    rows = []
    for row in found["confirmed"]:
        against = row.get("minus_given")
        interval = f" [{against['low']:+.4f}, {against['high']:+.4f}]" if against and against["low"] is not None else ""
        name = f"trial {row['trial']}" + (" (as given)" if against is None else "")
        rows.append([name, f"{row['mean']:.4f}", "-" if against is None else f"{against['mean']:+.4f}{interval}"])
    if rows:
        title = f"validation R@10 of {found['students']} fresh models, difference with a 95 % interval over them"
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
