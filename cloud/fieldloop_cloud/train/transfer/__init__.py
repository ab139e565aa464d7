"""Transfer learning: a backbone that has learned elsewhere, a new head, few labels.

    plan = plan_transfer(data.image, len(data.labels), weights="backbones/letters")
    net = train_net(plan, data)                            # two phases: head, then fine-tune
    model = train_on_features(plan, data, probes=data.X)   # or: features and a classical head

Follow it: `families` (facts) -> `plan` (checked, plain data) -> `build` (`pixels`, `weights`,
`stages`) -> `phases` (what is trained when) -> `nets.train_net`; or `feature_worker` ->
`feature_head`. `pretrain` makes a backbone, from `glyphs` if there is nothing better.
"""
