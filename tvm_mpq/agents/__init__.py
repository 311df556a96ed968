"""Agents that learn to choose bits: reinforcement learning on walks over a network's operators.

Needs the extra `rl`; other rooms import this one inside functions only.

ddpg  the agent of HAQ
"""
