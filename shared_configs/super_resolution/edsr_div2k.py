# EDSR with 8 blocks of 128 channels on DIV2K: the protocol behind LW-DNA's Table 2 and DHP's Table 2.
model = "edsr"
options = dict(n_blocks=8, n_feats=128)
dataset = "div2k"
data = dict(
    patch=192,
    # The reference trains on 32,208 sub-images; an epoch has as many crops of whole images, 2,013 batches of 16.
    crops_per_epoch=32208,
    augment=True,
    benchmarks=("Set5", "Set14", "B100", "Urban100", "DIV2K"),
)
train = dict(
    epochs=300,
    batch_size=16,
    optimizer=dict(name="adam", lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    schedule=dict(name="step", milestones=(200,), gamma=0.1),
    ema_decay=None,
    eval_every=10,
)
shrink = dict(
    widen=2.0,
    # Table 2: 55.44 of 90.37 G.
    budget=dict(flops=0.6134, convention="paper"),
    score="gradient",
    # A floor of 0.4 of the widened widths alone costs 0.64 of the baseline's FLOPs, more than the budget.
    floor=0.2,
    ceiling=1.0,
    # The paper has no such rule. Kernels compute channels in blocks of 8 or 16: 51 take the time of 56 or 64.
    round_to=16,
    batches=2,
    batch_size=16,
)
# As in the paper, the upsamplers share the trunk's width. With widths of their own they grow, and at four times the
# sides a channel costs more time than its FLOPs say.
tie_upsampler = True
