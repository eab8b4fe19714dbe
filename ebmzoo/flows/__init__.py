"""Invertible networks: architectures of decoders with a density."""

from ebmzoo.flows.autoregressive import MADE, MAF, NSF
from ebmzoo.flows.coupling import RealNVP
from ebmzoo.flows.flow import Flow
from ebmzoo.flows.glow import Glow, LatentGlow

__all__ = ["MADE", "MAF", "NSF", "Flow", "Glow", "LatentGlow", "RealNVP"]
