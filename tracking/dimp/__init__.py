"""DiMP (Bhat et al., ICCV 2019) with the box regressor of ATOM (Danelljan et al., CVPR 2019) on any backbone."""
