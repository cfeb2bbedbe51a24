"""From a checkpoint to a bundle: fold, quantise, plan, and everything derived from the plan."""
