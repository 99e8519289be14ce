"""DiMP (Bhat et al., ICCV 2019) with the box regressor of ATOM (Danelljan et al., CVPR 2019) on any backbone."""

from tracking.dimp.net import DiMPConfig, DiMPNet, DiMPOutput
from tracking.dimp.roi import prroi_pool

__all__ = ["DiMPConfig", "DiMPNet", "DiMPOutput", "prroi_pool"]
