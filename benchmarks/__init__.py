"""What the gateway costs, as ratios against the same call without it."""
