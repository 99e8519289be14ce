# DiMP-50 as published (Bhat et al., ICCV 2019): ResNet-50 pre-trained on ImageNet (--backbone-weights), everything
# fine-tuned, 50 epochs of 26,000 sequences.
name = "dimp50"
backbone = dict(name="resnet50")
network = dict(classification_channels=512, filter_size=4, optimizer_iterations=5, iou_channels=256)
data = dict(
    sources=(
        dict(dataset="lasot", split="train", weight=0.25),
        # The authors left out the thousand sequences that VOT's rules forbid: names="…/got10k_vot_train_split.txt".
        dict(dataset="got10k", split="train", weight=1.0),
        # Four of the twelve parts, one source together.
        dict(dataset="trackingnet", split="TRAIN_0", weight=0.25),
        dict(dataset="trackingnet", split="TRAIN_1", weight=0.25),
        dict(dataset="trackingnet", split="TRAIN_2", weight=0.25),
        dict(dataset="trackingnet", split="TRAIN_3", weight=0.25),
        dict(dataset="coco", split="train2014", weight=1.0),
    ),
    sequences_per_epoch=26_000,
    # GOT-10k's own validation set; the authors took a part of its training set, because of VOT's rules.
    validation=(dict(dataset="got10k", split="val"),),
    validation_sequences=5_000,
    sampling=dict(train_frames=3, test_frames=3, max_gap=30, gap_step=5, min_frames=20, min_visible=13),
    views=dict(
        crop=288,
        area_factor=5.0,
        train_jitter=dict(scale=0.25, shift=3.0),
        test_jitter=dict(scale=0.5, shift=4.5),
        grey=0.05,
        brightness=0.2,
        label_sigma=0.9,
        proposals=8,
    ),
    workers=8,
)
loss = dict(iou=1.0, final=100.0, initial=100.0, iterates=400.0, threshold=0.05)
train = dict(
    epochs=50,
    batch_size=10,
    optimizer=dict(
        name="adam",
        lr=2e-5,
        weight_decay=0.0,
        # 5e-5, 5e-5, 5e-4 and 2e-4; a higher rate of the filter initialiser makes the training unstable.
        groups=(
            ("classifier.feature_extractor", 2.5),
            ("classifier.filter_initializer", 2.5),
            ("classifier.filter_optimizer", 25.0),
            ("bb_regressor", 10.0),
        ),
    ),
    schedule=dict(name="step", milestones=(15, 30, 45), gamma=0.2),
    channels_last=True,
    eval_every=5,
    checkpoint_every_steps=500,
)
