model = "guard_network.py:net"
dataset = "digits"
data = {
    "train_limit": 60,
    "classes": None,
    "downsample": 1,
    "crop_padding": 1,
    "flip": False,
    "bad_images": "error",
    "workers": 0,
}
train = {
    "epochs": 2,
    "batch_size": 20,
    "optimizer": {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0005,
        "betas": (0.9, 0.999),
        "eps": 1e-08,
        "groups": (),
    },
    "schedule": {
        "name": "cosine",
        "milestones": (),
        "gamma": 0.1,
        "warmup_epochs": 0,
        "warmup_factor": 0.1,
        "min_lr": 0.0,
    },
    "precision": "32-true",
    "channels_last": False,
    "compile": False,
    "ema_decay": None,
    "accumulate": 1,
    "clip_grad_norm": None,
    "eval_every": 1,
    "checkpoint_every_steps": None,
    "seed": 0,
}
shrink = {
    "widen": 2.0,
    "budget": {
        "flops": 0.9,
        "params": None,
        "latency": None,
        "convention": "paper",
    },
    "score": "gradient",
    "allocation": "threshold",
    "floor": 0.4,
    "ceiling": 1.0,
    "round_to": 1,
    "batches": 1,
    "batch_size": 20,
    "latents": "gate",
    "embedding": 8,
    "freeze": (),
    "ties": (),
    "vanish": 0.0,
}
distillation = None
teacher = {
    "widen": 2.0,
    "checkpoint": None,
}
threads = 1
