"""Machines: facts about node types, cards and prices. Knows no Ray."""
