"""Every option of the network and of the recipe switched alone, each row at the same cost; see skill.py for the setting and the arguments.

    OMP_NUM_THREADS=1 python tests/benchmarks/ablation.py STORE OUT --train START/END --validation START/END --seconds 120 --inits 18
"""

from __future__ import annotations

from dataclasses import replace

import torch
from skill import Rows, Setting, arguments, precisions_of, run, slug, table
from skill_networks import (
    ADVECTED,
    ADVECTED_LINEAR,
    DAILY,
    DAY,
    DAY_LINEAR,
    LEAN,
    OURS,
    SKILL_ROWS,
    STRAIGHT,
    WIDER,
    cosine,
    hierarchical,
    plain,
    unet,
)

from afno_forecast.training.loss import LossConfig

ALONE = hierarchical(local=False, direct=True)
TWO_STEPS = ((0.7, 1), (1.0, 2))

ABLATION_ROWS: Rows = {
    "ours": SKILL_ROWS["ours"],
    "wider, learning rate 1e-3": (hierarchical(widths=WIDER), replace(OURS, name="lr 1e-3", optimizer=cosine(learning_rate=1e-3))),
    "wider, learning rate 2e-3": (hierarchical(widths=WIDER), replace(OURS, name="lr 2e-3", optimizer=cosine(learning_rate=2e-3))),
    "wider, learning rate 8e-3": (hierarchical(widths=WIDER), replace(OURS, name="lr 8e-3", optimizer=cosine(learning_rate=8e-3))),
    "wider, batch 2": (hierarchical(widths=WIDER), replace(OURS, name="batch 2", batch=2)),
    "wider, batch 2, learning rate 1e-3": (hierarchical(widths=WIDER), replace(OURS, name="batch 2, lr 1e-3", batch=2,
                                                                               optimizer=cosine(learning_rate=1e-3))),
    "AdamW for all": (hierarchical(), replace(OURS, name="AdamW", optimizer=cosine(learning_rate=2e-3, muon=False))),
    "last weights": (hierarchical(), replace(OURS, name="no average", average=0.0)),
    "one step only": (hierarchical(), replace(OURS, name="one step", stages=((1.0, 1),))),
    "wider, two steps at most": (hierarchical(widths=WIDER), replace(OURS, name="1, 2 from 60 %", stages=((0.6, 1), (1.0, 2)))),
    "longer rollouts earlier": (hierarchical(), replace(OURS, name="25/45/70/100", stages=((0.25, 1), (0.45, 2), (0.7, 4), (1.0, 8)))),
    "wider": (hierarchical(widths=WIDER), OURS),
    "wide": (hierarchical(widths=(64, 128, 256)), OURS),
    "two residual blocks": (hierarchical(residual_blocks=2), OURS),
    "four mixer blocks": (hierarchical(depth=4), OURS),
    "mixer identity": (hierarchical(mixer="identity"), OURS),
    "mixer alone": (hierarchical(local=False), OURS),
    "mixer alone, advection": (hierarchical(local=False), ADVECTED),
    "mixer alone, direct": (hierarchical(local=False, direct=True), OURS),
    "mixer alone, advection, direct": (hierarchical(local=False, direct=True), ADVECTED),
    "mixer alone, advection, linear": (ALONE, ADVECTED_LINEAR),
    "two input times, advection, linear": (ALONE, replace(ADVECTED_LINEAR, name="two input times", history=2)),
    "one step, advection, linear": (ALONE, replace(ADVECTED_LINEAR, name="one step, advection, linear", stages=((1.0, 1),))),
    "two steps at most, advection, linear": (ALONE, replace(ADVECTED_LINEAR, name="1, 2 from 70 %, advection, linear", stages=TWO_STEPS)),
    "four steps at most, advection, linear": (ALONE, replace(ADVECTED_LINEAR, name="1, 2, 4, advection, linear", stages=DAILY)),
    "lean, two steps at most, advection": (hierarchical(**LEAN), replace(ADVECTED_LINEAR, name="1, 2 from 70 %, advection, linear",
                                                                         stages=TWO_STEPS)),
    "advection, learning rate 2e-3": (hierarchical(local=False, direct=True), replace(ADVECTED, name="advection, lr 2e-3",
                                                                                      optimizer=cosine(learning_rate=2e-3))),
    "mixer gfn": (hierarchical(mixer="gfn", tokens=(8, 16)), OURS),
    "mixer legacy": (hierarchical(mixer="legacy"), OURS),
    "mixer fno": (hierarchical(mixer="fno", num_bands=4), OURS),
    "mixer attention": (hierarchical(mixer="attention"), OURS),
    "depthwise beside the mixer": (hierarchical(local="depthwise"), OURS),
    "dense weights": (hierarchical(num_blocks=1), OURS),
    "32 blocks": (hierarchical(num_blocks=32), OURS),
    "one band": (hierarchical(num_bands=1), OURS),
    "soft-shrink 0.01": (hierarchical(shrink=0.01), OURS),
    "learned soft-shrink 0.01": (hierarchical(shrink=0.01, learned_shrink=True), OURS),
    "half of the modes": (hierarchical(fraction=0.5), OURS),
    "double Fourier sphere": (hierarchical(latitude="double"), OURS),
    "odd channels": (hierarchical(odd_channels=0.25), OURS),
    "rolls in longitude": (hierarchical(), replace(OURS, name="rolls", loss=LossConfig(roll="longitude"))),
    "noise on the input": (hierarchical(), replace(OURS, name="noise 0.05", loss=LossConfig(input_noise=0.05))),
    "amse": (hierarchical(), replace(OURS, name="amse", loss=LossConfig(kind="amse"))),
    "shallow pyramid": (hierarchical(widths=(32, 64)), OURS),
    "shallow pyramid, identity": (hierarchical(widths=(32, 64), mixer="identity"), OURS),
    "plain, patch 2": (plain(patch=(2, 2), width=128, depth=4, num_bands=4, local=True), OURS),
    "plain, patch 2, identity": (plain(patch=(2, 2), width=128, depth=4, mixer="identity", local=True), OURS),
    "plain, patch 4": (plain(patch=(4, 4), width=128, depth=4, num_bands=4, local=True), OURS),
    "plain, patch 2, overlap and decoder": (plain(patch=(2, 2), width=128, depth=4, num_bands=4, local=True, overlap=1, decoder_channels=32), OURS),
    "plain, patch 2, patch jitter": (plain(patch=(2, 2), width=128, depth=4, num_bands=4, local=True),
                                     replace(OURS, name="jitter", loss=LossConfig(roll="patch"))),
    "U-Net": (unet(), OURS),
    "mixer alone, direct, steps of 24 h": (ALONE, replace(DAY, name="24 h")),
    "mixer alone, direct, linear, steps of 24 h": (ALONE, DAY_LINEAR),
    "mixer alone, direct, two steps at most, steps of 24 h": (ALONE, replace(DAY, name="24 h, 1, 2 from 70 %", stages=TWO_STEPS)),
    "mixer alone, direct, linear, learning rate 6e-3, steps of 24 h": (
        ALONE, replace(DAY_LINEAR, name="24 h, linear, lr 6e-3", optimizer=STRAIGHT.model_copy(update={"learning_rate": 6e-3}))),
    "mixer alone, direct, linear, momentum 0.9, steps of 24 h": (
        ALONE, replace(DAY_LINEAR, name="24 h, linear, momentum 0.9", optimizer=STRAIGHT.model_copy(update={"momentum": 0.9}))),
    "lean, cosine, steps of 24 h": (hierarchical(**LEAN), replace(DAY, name="24 h")),
    "lean, two steps at most, steps of 24 h": (hierarchical(**LEAN), replace(DAY_LINEAR, name="24 h, linear, 1, 2 from 70 %", stages=TWO_STEPS)),
    "lean, four mixer blocks, steps of 24 h": (hierarchical(depth=4, **LEAN), DAY_LINEAR),
    **{name: SKILL_ROWS[name] for name in ("lean, steps of 24 h", "lean, 48/96/192, steps of 24 h", "lean, advection, steps of 24 h",
                                           "lean, advection")},
}


def main() -> None:
    """Run the rows and print the table."""
    args = arguments(__doc__, list(ABLATION_ROWS))
    torch.set_num_threads(1)
    names = args.rows.split(",")
    rows = {name: row for name, row in ABLATION_ROWS.items() if slug(name) in names}
    run(Setting(args.store, args.train, args.validation), rows, [int(seed) for seed in args.seeds.split(",")], args.seconds, args.out,
        num_inits=args.inits, precisions=precisions_of(args))
    print(table(args.out))


if __name__ == "__main__":
    main()
