# The confirmation: the network and recipe of the exploration on the 100 classes that nothing was chosen on.
_base_ = "./mobilenetv2_small_tiny_imagenet_explore.py"
data = dict(first_class=100)
