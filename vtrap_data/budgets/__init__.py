"""How many frames does each item need?

- demand.py: how much the question alone asks for time, d(q)
- coverage.py: how badly F frames stand for the video, r(F)
- allocate.py: the strategies that turn the two into a budget
"""
