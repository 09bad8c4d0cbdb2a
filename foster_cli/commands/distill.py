"""`foster distill`: a table of interactions in, a bundle with a few synthetic sequences out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foster_cli.baselines import METHODS
from foster_cli.commands import options
from foster_cli.commands.settings import DATA_HELP, NO_CONTEXT, AlphaOption, LoraOption, PoolingOption
from foster_cli.commands.settings import opt as _opt
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig

_D, _M, _T, _S = DistillConfig(), ModelConfig(), TrainConfig(), StudentConfig()
_METHODS = "; ".join(f"{m.name}: {m.description}" for m in METHODS.values())
#: Options of outer steps: `rollout` takes none. A coreset also takes no start and trains by the real loss.
_OUTER = ("steps", "init", "targets", "mix", "barrier", "eta", "outer_loss", "alpha", "dh_weight", "dh_form", "reset",
          "reset_every", "inner_steps", "inner_lr", "model_lr", "synthetic_lr", "check_every")  # fmt: skip
_SYNTHETIC = ("draws", "gain", "rank_user", "rank_time", "items_per_step", "subset", "check_seeds", "student_lr",
              "student_steps", "student_items")  # fmt: skip
#: Ways to look at the steps of a run; a coreset is made without any.
_VIEWS = ("live", "tensorboard")
#: What TD3 sets itself; its steps, checks and students are as given.
_TD3 = (*(name for name in _OUTER if name not in ("steps", "check_every")), "draws", "gain", "rank_user", "rank_time",
        "subset")  # fmt: skip


def command(
    data: Annotated[list[Path] | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    budget: Annotated[int, _opt("--budget", "M, synthetic sequences.")] = _D.budget,
    method: Annotated[str, _opt("--method", f"How sequences are made or chosen. {_METHODS}.")] = "foster",
    out: Annotated[Path | None, _opt("--out", "The bundle; runs/<data>-<method>-b<budget>-<n> without it.")] = None,
    resume: Annotated[
        Path | None, _opt("--resume", "A bundle whose making was interrupted: go on with it, to the same numbers.")
    ] = None,
    extend: Annotated[int | None, _opt("--extend", "With --resume and a finished bundle: so many more steps.")] = None,
    steps: Annotated[int, _opt("--steps", "K, outer steps; 0 keeps the starting point.")] = _D.steps,
    settings_file: Annotated[
        Path | None, _opt("--settings", "A file of settings, as foster tune writes it; options that are typed win.")
    ] = None,
    length: options.Length = _D.length,
    seed: Annotated[int, _opt("--seed", "Fixes the result on a given machine.")] = 0,
    device: options.Device = "auto",
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse a teacher trained before.")] = True,
    json: Annotated[bool, _opt("--json", "Events as JSON lines on standard output.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Losses, validation and time left, drawn on the terminal while it runs.")
    ] = False,
    tensorboard: Annotated[
        Path | None, _opt("--tensorboard", "A folder for TensorBoard's event files (needs tensorboard).")
    ] = None,
    encoder: options.Encoder = _M.encoder,
    pooling: PoolingOption = None,
    backbone: options.Backbone = _M.backbone,
    items: Annotated[
        str, _opt("--items", "What an item is known by: text, or id (an embedding that learns; no text encoder).")
    ] = _M.items,
    train_layers: options.TrainLayers = _M.train_layers,
    lora: LoraOption = None,
    lora_alpha: AlphaOption = None,
    cache_precision: Annotated[
        str | None, _opt("--cache-precision", "fp32 or bf16 for kept hidden states; as the encoder gives them without.")
    ] = None,
    width: Annotated[
        int | None, _opt("--width", "d, width of the recommender; the encoder's own without it (64 with --items id).")
    ] = None,
    max_tokens: Annotated[int, _opt("--max-tokens", "Texts are cut to this many tokens.")] = _M.max_tokens,
    precision: options.Precision = _M.precision,
    loss: Annotated[str, _opt("--loss", "softmax (512 shared negatives) or bce (the paper's).")] = _T.loss,
    epochs: options.Epochs = _T.epochs,
    patience: Annotated[int, _opt("--patience", "Epochs without a better validation.")] = _T.patience,
    lr: Annotated[float, _opt("--lr", "AdamW rate on real data.")] = _T.lr,
    init: Annotated[
        str, _opt("--init", "Where D~ starts: probe, guided, rollout, real, random; of A,B the best on validation.")
    ] = _D.init,
    draws: Annotated[int, _opt("--draws", "Draws of the real items or contexts tried for each start.")] = _D.draws,
    targets: Annotated[
        str, _opt("--targets", "What a position predicts: own (a distribution of its own) or next (the next position).")
    ] = _D.targets,
    mix: Annotated[
        bool, typer.Option("--mix/--no-mix", help="Train on users mixed from two synthetic ones at every step.")
    ] = _D.mix,
    gain: Annotated[
        float,
        _opt("--gain", "Length of the vectors that stand for one item; larger means harder P."),
    ] = _D.gain,
    rank_user: Annotated[int | None, _opt("--rank-user", "d1; full without it.")] = None,
    rank_time: Annotated[int | None, _opt("--rank-time", "d2; full without it.")] = None,
    items_per_step: Annotated[str, _opt("--items-per-step", "|S|, items drawn at each step, or all.")] = str(
        _D.items_per_step
    ),
    subset: Annotated[str, _opt("--subset", "fly (fresh S each step) or kmeans (fixed).")] = _D.subset,
    barrier: Annotated[str, _opt("--barrier", "gradient (eta |grad q|^2) or loss (eta L_in).")] = _D.barrier,
    eta: Annotated[float, _opt("--eta", "Barrier strength.")] = _D.eta,
    outer_loss: Annotated[str, _opt("--outer-loss", "Real part of L_out: bce or softmax.")] = _D.outer_loss,
    alpha: Annotated[float, _opt("--alpha", "Weight of feature matching.")] = _D.alpha,
    dh_weight: Annotated[float, _opt("--dh-weight", "lambda, weight of L_DH; 0: without.")] = _D.dh_weight,
    dh_form: Annotated[str, _opt("--dh-form", "Scale of its distances: rank, mean or raw.")] = _D.dh_form,
    reset: Annotated[
        str,
        _opt("--reset", "Where phi restarts: anchor (a checkpoint of the real training), random or never."),
    ] = _D.reset,
    reset_every: Annotated[int, _opt("--reset-every", "tau, outer steps between resets.")] = _D.reset_every,
    inner_steps: Annotated[
        int, _opt("--inner-steps", "T, steps on the synthetic set before each outer step.")
    ] = _D.inner_steps,
    inner_lr: Annotated[float, _opt("--inner-lr", "AdamW rate of the inner steps.")] = _D.inner_lr,
    model_lr: Annotated[float, _opt("--model-lr", "AdamW rate of phi.")] = _D.model_lr,
    synthetic_lr: Annotated[float, _opt("--synthetic-lr", "AdamW rate of U, T, G.")] = _D.synthetic_lr,
    check_every: Annotated[int, _opt("--check-every", "Outer steps between validations.")] = _D.check_every,
    check_seeds: Annotated[int, _opt("--check-seeds", "Fresh models per validation.")] = _D.check_seeds,
    student_lr: Annotated[float, _opt("--student-lr", "AdamW rate for training on D~.")] = _S.lr,
    student_steps: options.StudentSteps = _S.steps,
    student_items: options.StudentItems = str(_S.items_per_step),
    user_column: options.UserColumn = None,
    item_column: options.ItemColumn = None,
    time_column: options.TimeColumn = None,
    text_columns: options.TextColumns = None,
    split_column: options.SplitColumn = None,
    k_core: options.KCore = None,
    ctx: typer.Context = NO_CONTEXT,
) -> None:
    """Distil a dataset into a few synthetic sequences.

    D~ is the synthetic set, phi a recommender, S a subset of the items.

    Trains a recommender on all of DATA (kept in a cache), then makes M sequences of item distributions that
    train a fresh one as well, and writes them as a bundle. With another --method: for comparison, M real sequences
    (a coreset), the starting point alone (rollout), or TD3's set (over all items unless --items-per-step is given).

    While it runs, its state is kept beside the bundle in BUNDLE.run: after Ctrl-C, a crash or a full disk,
    foster distill --resume BUNDLE goes on, without DATA or options.

    Example: foster distill games.parquet --budget 20
    """
    from dataclasses import replace

    from foster_cli.baselines.td3 import TD3Config, td3_loop, td3_settings
    from foster_cli.commands import settings
    from foster_cli.commands.common import next_run, note_ops
    from foster_cli.commands.resume import resumed
    from foster_cli.commands.settings_file import beneath
    from foster_cli.config import choice
    from foster_cli.console import Console
    from foster_cli.data.prepare import load_dataset
    from foster_cli.distill.loop import distill
    from foster_cli.distill.pipeline import Loop, check_settings, run
    from foster_cli.errors import FosterError
    from foster_cli.report.live import watching
    from foster_cli.report.tensorboard import check_tensorboard, recording
    from foster_cli.runtime import pick_device

    console = Console(json_mode=json)
    kind = METHODS[choice("--method", method, tuple(METHODS))]
    if method != "foster":
        refused = _TD3 if method == "td3" else (*_OUTER, *_SYNTHETIC, *_VIEWS) if kind.real else _OUTER
        settings.refuse(ctx, refused, method)
        if settings_file is not None:
            raise FosterError(
                f"--settings: means nothing with --method {method}", "leave it out, or use --method foster"
            )
    model = ModelConfig(
        encoder=encoder, train_layers=train_layers, width=width, max_tokens=max_tokens, precision=precision,
        backbone=backbone, items=items, pooling=pooling, lora=lora, lora_alpha=lora_alpha,
        cache_precision=cache_precision,
    )  # fmt: skip
    train = TrainConfig(loss=loss, epochs=epochs, lr=lr, patience=patience)
    config = DistillConfig(
        budget=budget, length=length, steps=steps, init=init, draws=draws, gain=gain,
        targets=targets, mix=mix, rank_user=rank_user, rank_time=rank_time,
        items_per_step=settings.items_per_step("--items-per-step", items_per_step), subset=subset,
        inner_steps=inner_steps, inner_lr=inner_lr, model_lr=model_lr, synthetic_lr=synthetic_lr, barrier=barrier,
        outer_loss=outer_loss, eta=eta, alpha=alpha, dh_weight=dh_weight, dh_form=dh_form, reset=reset,
        reset_every=reset_every, check_every=check_every, check_seeds=check_seeds,
    )  # fmt: skip
    drawn = settings.items_per_step("--student-items", student_items)
    student = StudentConfig(lr=student_lr, steps=student_steps, items_per_step=drawn)
    model, train, config, student = beneath(ctx, settings_file, model, train, config, student)
    if method == "rollout":
        config = replace(config, init="rollout", targets="next", mix=False, steps=0)
    loop: Loop = distill
    if method == "td3":
        config = td3_settings(config, TD3Config(), not settings.was_given(ctx, "items_per_step"))
        loop = td3_loop(TD3Config())
    check_settings(model, train, config, student)
    if tensorboard is not None:
        check_tensorboard()
    prepare = settings.prepare_settings(user_column, item_column, time_column, text_columns, split_column, k_core)
    seeded = None
    if resume is not None:
        going = resumed(ctx, resume, out, extend, data, console)
        if going is None:
            return
        r, out, seeded = going.request, going.out, going.seeded
        data, prepare, model, train = [*map(Path, r.paths)], r.prepare, r.model, r.train
        config, student = r.config, r.student
        seed, method, cache, budget, length = r.seed, r.method, r.use_cache, r.config.budget, r.config.length
        device = r.device if r.device != "auto" else device
        kind, loop = METHODS[method], td3_loop(TD3Config()) if method == "td3" else distill
    elif extend is not None:
        raise FosterError("--extend: goes on with a finished bundle", "name it: --resume BUNDLE --extend N")
    elif not data:
        raise FosterError("DATA is missing", "foster distill FILE, or --resume BUNDLE")
    elif out is not None and out.exists():
        raise FosterError(f"--out {out}: exists already", "give another name, or remove it first")
    where = pick_device(device)
    note_ops(console, where)
    dataset = load_dataset(data, prepare)
    s = dataset.statistics
    console.note(f"{dataset.name}: {s['interactions']:,} interactions, {s['users']:,} users, {s['items']:,} items")
    out = out or next_run(dataset.name, method, config.budget)
    if kind.real:
        from foster_cli.distill.coreset import run_coreset

        manifest = run_coreset(
            method, dataset, settings.absolute(data), prepare, model, train, config, student, seed, where, out, console,
            cache,
        )  # fmt: skip
        m = manifest["metrics"]
        console.event(event="bundle", path=str(out), metrics=m)
        console.result(f"{out}: {budget} real sequences chosen by {method} in {m['seconds_select']:.1f} s")
        console.result(f"next: foster eval {out}")
        return
    with (
        recording(console, tensorboard),
        watching(live, method, dataset, model, train, config, seed, where, console, cache),
    ):
        manifest = run(
            dataset, settings.absolute(data), prepare, model, train, config, student, seed, where, out, console, cache,
            method, loop, resume=resume is not None and seeded is None, seeded=seeded,
        )  # fmt: skip
    m = manifest["metrics"]
    console.event(event="bundle", path=str(out), metrics=m)
    console.result(f"{out}: {config.budget} sequences x {config.length} positions over {s['items']:,} items")
    console.result(
        f"validation R@10: {m['valid_R@10']:.4f} (outer step {m['best_step']}), full data {m['full_valid_R@10']:.4f}, "
        f"untrained {m['untrained_valid_R@10']:.4f}"
    )
    console.result(f"next: foster eval {out}")
