# The user's own images, from hundreds to hundreds of thousands: `--dataset PATH`. A network that learns from few
# images, at a size that suits a CPU; use data.size=224 if there is a GPU and time.
model = "resnet18"
# Named on the command line.
dataset = "PATH"
data = dict(
    train_limit=None,
    size=128,
    # Random resized crops instead.
    crop_padding=0,
    flip=True,
    # One damaged file in a hundred thousand is named, counted and listed, and does not stop the run.
    bad_images="skip",
    workers=4,
)
train = dict(
    epochs=100,
    # Small, so that some hundred images still give a dozen steps per epoch; a smaller set is one batch.
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
