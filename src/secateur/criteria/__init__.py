"""Criteria: how little a unit matters. One small file each; lower scores go first."""

from __future__ import annotations

from secateur.criteria.activation_based import ActivationCriterion
from secateur.criteria.apoz import APoZ
from secateur.criteria.base import CRITERIA, Criterion, Scores
from secateur.criteria.bn_scale import BNScale
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.criteria.flap import FLAP
from secateur.criteria.fpgm import FPGM
from secateur.criteria.gradient import Gradient
from secateur.criteria.grasp import GraSP
from secateur.criteria.head_importance import HeadImportance
from secateur.criteria.hrank import HRank
from secateur.criteria.lasso import Lasso
from secateur.criteria.magnitude import L1, L2, LP
from secateur.criteria.mean_activation import MeanActivation
from secateur.criteria.obd import OBD
from secateur.criteria.obs import OBS
from secateur.criteria.random import Random
from secateur.criteria.resolve import FunctionCriterion, as_criterion
from secateur.criteria.scale import Scale
from secateur.criteria.scoring import Scorer, score_classes, score_units
from secateur.criteria.snip import SNIP
from secateur.criteria.sparsegpt import SparseGPT
from secateur.criteria.synflow import SynFlow
from secateur.criteria.taylor import Taylor
from secateur.criteria.taylor_activation import TaylorActivation
from secateur.criteria.thinet import ThiNet
from secateur.criteria.wanda import Wanda
from secateur.criteria.woodfisher import WoodFisher

__all__ = [
    "CRITERIA",
    "FLAP",
    "FPGM",
    "L1",
    "L2",
    "LP",
    "OBD",
    "OBS",
    "SNIP",
    "APoZ",
    "ActivationCriterion",
    "BNScale",
    "Criterion",
    "ElementwiseCriterion",
    "FunctionCriterion",
    "GraSP",
    "Gradient",
    "HRank",
    "HeadImportance",
    "Lasso",
    "MeanActivation",
    "Random",
    "Scale",
    "Scorer",
    "Scores",
    "SparseGPT",
    "SynFlow",
    "Taylor",
    "TaylorActivation",
    "ThiNet",
    "Wanda",
    "WoodFisher",
    "as_criterion",
    "score_classes",
    "score_units",
]
