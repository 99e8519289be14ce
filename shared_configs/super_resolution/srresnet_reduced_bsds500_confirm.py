# Where what won on the reduced EDSR is tried on another network, at SRResNet's published ratio of FLOPs: scored on
# photographs of BSDS500 that are held out of training. Precision and layout are those of the reduced EDSR.
_base_ = "./srresnet_reduced_bsds500.py"
data = dict(held_out=49, benchmarks=("Set5", "Set14"))
train = dict(eval_every=12, precision="bf16-mixed", channels_last=True)
# As in edsr_reduced_bsds500_confirm.py.
shrink = dict(floor=0.25, round_to=4)
