# CIFAR-10 as in DHP's scripts: padded random crops, horizontal flips, learning rate x0.1 at half and three quarters.
dataset = "cifar10"
data = dict(
    train_limit=None,
    crop_padding=4,
    flip=True,
    bad_images="error",
    workers=0,
)
train = dict(
    epochs=300,
    batch_size=64,
    optimizer=dict(name="sgd", lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4),
    schedule=dict(name="step", milestones=(150, 225), gamma=0.1),
)
shrink = dict(
    widen=2.0,
    # LW-DNA's figures for CIFAR-10 are not in its published tables; this is the ImageNet networks' ratio.
    budget=dict(flops=0.9, convention="paper"),
    score="gradient",
    floor=0.4,
    ceiling=1.0,
    round_to=1,
    batches=2,
    batch_size=32,
)
