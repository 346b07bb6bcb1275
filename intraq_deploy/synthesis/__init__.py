"""Images from the network itself: objectives, reinforcement, BN statistics, the loop, quality."""

from intraq_deploy.synthesis.quality import Quality
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.synthesis.synthetic_set import SyntheticSet

__all__ = ["Quality", "SynthesisRecipe", "SyntheticSet"]
