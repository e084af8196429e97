"""What things cost: one command per claim, with rivals where there are any."""
