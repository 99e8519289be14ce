# The confirmation of the gain from leaving blocks out of a ResNet (docs/results/registered/resnet20_depth.json): the
# 100 classes that the exploration did not see, and Tiny-ImageNet's own stem of stride 2, so that maps have 8, 4 and 2
# pixels a side. The floor is the paper's: a block that would need it is left out.
_base_ = "./resnet20_tiny_imagenet_explore.py"
form = "tiny-imagenet"
data = dict(first_class=100)
shrink = dict(floor=0.4)
