# DHP, Table 1: the baseline's top-1 error is 7.05 %.
_base_ = "../_base_/cifar10.py"
model = "resnet56"
