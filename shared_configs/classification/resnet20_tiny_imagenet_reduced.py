# A part of Tiny-ImageNet that a CPU trains on in minutes, for comparisons over many seeds: the first 20 classes at a
# quarter of their size, ResNet20 with Tiny-ImageNet's stem of stride 2, flipped and shifted images, few epochs.
_base_ = "../_base_/tiny_imagenet.py"
model = "resnet20"
# Layers this small are done before a second thread has started.
threads = 1
data = dict(classes=20, downsample=4, crop_padding=1, flip=True)
train = dict(
    epochs=10,
    optimizer=dict(weight_decay=5e-4),
    schedule=dict(_delete_=True, name="cosine", warmup_epochs=0, min_lr=0.0),
)
shrink = dict(budget=dict(flops=0.9))
