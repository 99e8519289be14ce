# LW-DNA, Table 6, "Baseline KD". The printed errors (51.87 % and 48.00 %) do not fit DHP's baseline of 52.71 % well.
_base_ = ["./mobilenetv1_tiny_imagenet.py", "../_base_/distillation.py"]
