# The exploration on MobileNetV2 itself, 2.3 million parameters instead of the small one's 156 thousand. An epoch takes
# one core a minute or so: fewer of them.
_base_ = "./mobilenetv2_small_tiny_imagenet_explore.py"
model = "mobilenetv2"
train = dict(epochs=12, eval_every=12)
