"""Nets: planned to a device's budget, trained in a process of their own, resumed after a kill.

    from fieldloop_cloud.train.nets import NetSettings, estimate, plan_net, train_net

    plan = plan_net("cnn", data, max_model_bytes=200_000)
    estimate(plan)  # parameters, MACs, weight and arena bytes, before anything is trained
    net = train_net(plan, data, settings=NetSettings(epochs=30), floor=0.9)

Follow a training: `train` (the order, seen from outside) -> `worker` (its process) -> `build`
(the layers) -> `pipeline` (the rows) -> `training` (the loop) -> `checkpoint`.
"""

from fieldloop_cloud.train.nets.costing import NetCost, estimate, estimate_all
from fieldloop_cloud.train.nets.planning import plan_net
from fieldloop_cloud.train.nets.plans import Cnn1dPlan, CnnPlan, GruPlan, MlpPlan, NetPlan
from fieldloop_cloud.train.nets.settings import Augmentation, NetSettings
from fieldloop_cloud.train.nets.train import train_net
from fieldloop_cloud.train.nets.trained import TrainedNet
from fieldloop_cloud.train.phase import Phase

__all__ = [
    "Augmentation",
    "Cnn1dPlan",
    "CnnPlan",
    "GruPlan",
    "MlpPlan",
    "NetCost",
    "NetPlan",
    "NetSettings",
    "Phase",
    "TrainedNet",
    "estimate",
    "estimate_all",
    "plan_net",
    "train_net",
]
