# scikit-learn's handwritten digits: a real data set that needs no download, for a first run of minutes on a CPU.
# Epochs, crop and weight decay were chosen on the baseline: shorter runs and plain images give larger errors.
model = "resnet20"
dataset = "digits"
# Layers this small are done before a second thread has started.
threads = 1
data = dict(
    train_limit=None,
    crop_padding=1,
    # A flipped digit is another sign.
    flip=False,
    bad_images="error",
    workers=0,
)
train = dict(
    epochs=15,
    batch_size=64,
    optimizer=dict(name="sgd", lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4),
    schedule=dict(name="cosine", warmup_epochs=0, min_lr=0.0),
)
shrink = dict(
    widen=2.0,
    # The convention of the records in docs/results, which this protocol reproduces.
    budget=dict(flops=0.9, convention="paper"),
    score="gradient",
    floor=0.4,
    ceiling=1.0,
    round_to=1,
    batches=2,
    batch_size=64,
)
