# LW-DNA, Table 6: 4.0005 G -> 3.8199 G FLOPs (95.49 %), top-1 error 23.05 % -> 22.74 %.
# The table gives no recipe of its own for this network; it is taken to be ResNet50's.
_base_ = "../_base_/imagenet.py"
model = "regnetx_4gf"
shrink = dict(budget=dict(flops=0.9549))
