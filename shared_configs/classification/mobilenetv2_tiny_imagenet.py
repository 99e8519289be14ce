# DHP, Table 1: the baseline's top-1 error is 44.75 %. LW-DNA, Table 6: 0.0930 G -> 0.0872 G FLOPs (93.76 %).
_base_ = "../_base_/tiny_imagenet.py"
model = "mobilenetv2"
shrink = dict(budget=dict(flops=0.9376))
