# The negative control, declared beforehand: basic blocks, which have next to nothing to gain from widths
# (docs/results/channel_bench.md), and depth with maps that a block does not see whole: the stem has stride 1.
_base_ = "./mobilenetv2_small_tiny_imagenet_explore.py"
model = "resnet20"
form = "cifar"
