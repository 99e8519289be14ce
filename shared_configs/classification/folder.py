# The user's own images, hundreds to hundred thousands of them: `--dataset PATH`.
# A network that learns from few images, at a size that a CPU can do; data.size=224 where there is a GPU and time.
model = "resnet18"
# Named on the command line.
dataset = "PATH"
data = dict(
    train_limit=None,
    size=128,
    # Random resized crops instead.
    crop_padding=0,
    flip=True,
    # One damaged file in a hundred thousand is named, counted and listed, and does not stop the others.
    bad_images="skip",
    workers=4,
)
train = dict(
    epochs=100,
    # Small, so that some hundred images still make a dozen steps an epoch; a set of fewer images is one batch.
    batch_size=32,
    optimizer=dict(name="sgd", lr=0.025, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=dict(name="cosine", warmup_epochs=5, min_lr=0.0),
)
shrink = dict(
    widen=2.0,
    budget=dict(flops=0.9),
    score="gradient",
    floor=0.4,
    ceiling=1.0,
    round_to=1,
    batches=2,
    batch_size=32,
)
