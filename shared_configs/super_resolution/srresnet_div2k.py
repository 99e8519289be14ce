# SRResNet with 16 blocks of 64 channels on DIV2K: the protocol behind LW-DNA's Table 2 and DHP's Table 2.
_base_ = "./edsr_div2k.py"
model = "srresnet"
options = dict(_delete_=True)
data = dict(patch=96)
# Table 2: 28.79 of 32.81 G.
shrink = dict(budget=dict(flops=0.8775), floor=0.4)
