# The exploration of ways of finding widths: classes 0 to 99 of Tiny-ImageNet at a quarter of their size, half of the
# training images held out for testing, so that 30,000 images tell networks apart. Inverted bottlenecks, because widths
# matter to them. half_mobilenet_tiny_imagenet_confirm.py is the comparison on other classes, of a network of this kind.
_base_ = "../_base_/tiny_imagenet.py"
model = "mobilenetv2_small"
# Layers this small are done before a second thread has started.
threads = 1
data = dict(classes=100, test_per_class=250, downsample=4, crop_padding=2, flip=True)
train = dict(
    epochs=30,
    channels_last=True,
    eval_every=30,
    optimizer=dict(weight_decay=5e-4),
    schedule=dict(_delete_=True, name="cosine", warmup_epochs=1, min_lr=0.0),
)
# The table of 32,768 networks (docs/results/channel_bench.md) says that a floor of 0.4 hides the widths that win.
shrink = dict(budget=dict(flops=0.9, convention="both"), floor=0.25)
