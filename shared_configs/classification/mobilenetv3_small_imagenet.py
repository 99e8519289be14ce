# LW-DNA, Table 6: 0.0612 G -> 0.0605 G FLOPs (98.86 %), top-1 error 34.91 % -> 34.84 %.
# The table gives no recipe of its own for this network; it is taken to be ResNet50's.
_base_ = "../_base_/imagenet.py"
model = "mobilenetv3_small"
shrink = dict(budget=dict(flops=0.9886), batch_size=128)
