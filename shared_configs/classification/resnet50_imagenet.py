# LW-DNA, Table 6: 4.1177 G -> 3.7307 G FLOPs (90.6 %), top-1 error 23.28 % -> 23.00 %.
_base_ = "../_base_/imagenet.py"
model = "resnet50"
shrink = dict(budget=dict(flops=0.906))
