# A small DiMP that trains from scratch on a CPU in minutes: a ResNet-18 of a quarter of the width, crops of 144 pixels.
# OTB (whatever part of it is there) and the photographs of `demo`, which need no download.
name = "dimp18-small"
backbone = dict(name="resnet18-small")
network = dict(classification_channels=64, filter_size=4, optimizer_iterations=5, iou_channels=64)
data = dict(
    sources=(
        dict(dataset="otb", weight=0.3, partial=True),
        dict(dataset="demo", split="train", weight=0.7),
    ),
    sequences_per_epoch=400,
    # One frame to learn the target from and one to find it in: as many frames of other sequences teach more.
    sampling=dict(train_frames=1, test_frames=1),
    # The published sampling, jitter and augmentation, on crops of half the size.
    views=dict(crop=144, flip=0.5),
    cache=dict(enabled=True),
    workers=0,
)
train = dict(
    epochs=8,
    batch_size=16,
    optimizer=dict(
        name="adam",
        lr=2e-3,
        weight_decay=0.0,
        groups=(("classifier.filter_initializer", 0.15),),
    ),
    schedule=dict(name="cosine"),
    channels_last=True,
    checkpoint_every_steps=20,
)
