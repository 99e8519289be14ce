# Tiny-ImageNet as in DHP's scripts, whose baselines LW-DNA's table shares.
dataset = "tiny-imagenet"
data = dict(
    train_limit=None,
    # No augmentation at all. The scripts mean to flip images, but an inverted condition turns it off: they intend
    # data.flip=True, and the published figures were made with data.flip=False.
    crop_padding=0,
    flip=False,
    bad_images="error",
    # Threads that decode the images once, into a cache.
    workers=4,
)
train = dict(
    epochs=220,
    batch_size=64,
    optimizer=dict(name="sgd", lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4),
    schedule=dict(name="step", milestones=(200, 205, 210, 215), gamma=0.1),
)
shrink = dict(
    widen=2.0,
    # The fractions of the published tables.
    budget=dict(convention="paper"),
    score="gradient",
    floor=0.4,
    ceiling=1.0,
    round_to=1,
    # The reference takes two batches, and half of the images of each.
    batches=2,
    batch_size=32,
)
