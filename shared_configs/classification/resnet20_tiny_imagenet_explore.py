# The negative control, declared beforehand: basic blocks, which gain almost nothing from widths
# (docs/results/channel_bench.md), and depth with maps larger than a block's receptive field: the stem has stride 1.
_base_ = "./mobilenetv2_small_tiny_imagenet_explore.py"
model = "resnet20"
form = "cifar"
