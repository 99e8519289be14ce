# LW-DNA, Table 6, "Baseline KD": top-1 error 41.25 % -> 40.74 %.
_base_ = ["./mobilenetv2_tiny_imagenet.py", "../_base_/distillation.py"]
