# DenseNet-40-12; DHP, Table 1: the baseline's top-1 error is 5.26 %. Nesterov momentum as in the reference.
_base_ = "../_base_/cifar10.py"
model = "densenet40"
train = dict(optimizer=dict(nesterov=True))
