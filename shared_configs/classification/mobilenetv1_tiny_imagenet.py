# DHP, Table 1: the baseline's top-1 error is 52.71 %. LW-DNA, Table 6: the same FLOPs as the baseline (0.0478 G).
_base_ = "../_base_/tiny_imagenet.py"
model = "mobilenetv1"
shrink = dict(budget=dict(flops=1.0))
