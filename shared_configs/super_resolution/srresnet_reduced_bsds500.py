# A reduced SRResNet, 4 blocks of 32 channels, that a CPU trains on BSDS500: no published network, no published
# protocol. The recipe is that of the reduced EDSR.
_base_ = "./edsr_reduced_bsds500.py"
model = "srresnet"
# As in srresnet_div2k.py.
shrink = dict(budget=dict(flops=0.8775), floor=0.4)
