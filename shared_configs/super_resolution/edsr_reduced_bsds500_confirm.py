# The confirmation of the exploration on the reduced EDSR: scored on photographs of BSDS500 that are held out of
# training and on which nothing was chosen. bfloat16 and channels_last: half the time on a CPU.
_base_ = "./edsr_reduced_bsds500.py"
data = dict(held_out=49, benchmarks=("Set5", "Set14"))
train = dict(eval_every=12, precision="bf16-mixed", channels_last=True)
# Multiples of 4: with 16 a trunk of 32 can only be halved. The floor is half of the regular width.
shrink = dict(budget=dict(flops=0.9), floor=0.25, round_to=4)
