# A small DiMP that trains from scratch on a CPU in minutes: a ResNet-18 of a quarter of the width, crops of 144 pixels.
# OTB (whatever part of it is there) and the training photographs of `demo`, which need no download.
name = "dimp18-small"
backbone = dict(name="resnet18-small")
network = dict(classification_channels=64, filter_size=4, optimizer_iterations=5, iou_channels=64)
# The first filter is the target's own features: from scratch, a better start than the published random one.
matched_filter = 0.3
data = dict(
    sources=(
        dict(dataset="otb", weight=0.15, partial=True),
        dict(dataset="demo", split="train", weight=0.35),
        # A dozen targets are soon memorised; these are three hundred more.
        dict(dataset="demo", split="random", weight=0.5),
    ),
    sequences_per_epoch=640,
    # One frame to learn the target from and one to find it in: more sequences teach more than more frames of each.
    sampling=dict(train_frames=1, test_frames=1),
    views=dict(
        crop=144,
        # A smaller area than published, so that a target is more than two cells of the score map wide.
        area_factor=4.0,
        # Less than the published jitter, which hides the target from a network that knows nothing yet.
        train_jitter=dict(scale=0.25, shift=1.0),
        test_jitter=dict(scale=0.25, shift=3.0),
        # More variation of colours than published, for a dozen targets.
        grey=0.15,
        brightness=0.3,
        flip=0.5,
        swap_colours=0.5,
        tint=0.3,
    ),
    cache=dict(enabled=True, target=40.0),
    workers=0,
)
# The trunk learns from both heads; the classifier's loss is by far the larger one.
loss = dict(iou=10.0)
train = dict(
    epochs=30,
    batch_size=16,
    optimizer=dict(
        name="adam",
        lr=2e-3,
        weight_decay=0.0,
        groups=(
            ("classifier.feature_extractor", 0.5),
            ("classifier.filter_initializer", 0.1),
            ("classifier.filter_optimizer", 0.25),
        ),
    ),
    schedule=dict(name="cosine", warmup_epochs=1),
    clip_grad_norm=20.0,
    ema_decay=0.98,
    channels_last=True,
    checkpoint_every_steps=20,
)
# Chosen on random scenes of `demo` that are not trained on: a small network's features separate the target less well
# from its surroundings, so the tracker searches nearer to the last position and learns more often.
tracker = dict(search_area=3.5, window=True, target_not_found=0.0, train_skipping=2, learning_rate=0.02)
