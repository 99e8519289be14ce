# The confirmation: the network and recipe of the exploration on the 100 classes on which nothing was chosen.
_base_ = "./half_mobilenet_tiny_imagenet_explore.py"
data = dict(first_class=100)
