# A reduced EDSR, 4 blocks of 32 channels, that a CPU trains in minutes on BSDS500: no published network, no
# published protocol. Its purpose is to see the whole method work, far above bicubic, without a GPU.
_base_ = "./edsr_div2k.py"
options = dict(n_blocks=4, n_feats=32)
dataset = "bsds500"
data = dict(
    # Multiples of the scale: 63 at x3.
    patch=64,
    crops_per_epoch=4000,
    # The paper's sets without DIV2K, whose large images take a CPU longer than the training.
    benchmarks=("Set5", "Set14", "B100", "Urban100"),
)
train = dict(
    epochs=12,
    # Small crops and batches: more steps in the same time, which matters most in so short a training.
    batch_size=4,
    # 2e-3 learns faster and then diverges: EDSR has no normalisation.
    optimizer=dict(lr=5e-4),
    schedule=dict(name="cosine", milestones=(), min_lr=0.0, warmup_epochs=1),
    eval_every=4,
)
shrink = dict(batches=4)
# A trunk of multiples of 16 would be either 16 or 32 wide.
tie_upsampler = False
