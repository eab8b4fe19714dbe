"""Invertible networks: architectures of decoders with a density."""

from ebmzoo.flows.autoregressive import MADE, MAF, NSF
from ebmzoo.flows.coupling import RealNVP
from ebmzoo.flows.flow import Flow

__all__ = ["MADE", "MAF", "NSF", "Flow", "RealNVP"]
