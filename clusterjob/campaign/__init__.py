"""Campaigns: many jobs, their order, their limits, driven to the end."""

from clusterjob.campaign.campaign import (
    Campaign,
    Outcome,
    campaign_names,
    open_campaign,
)
from clusterjob.campaign.steps import Step

__all__ = ["Campaign", "Outcome", "Step", "campaign_names", "open_campaign"]
