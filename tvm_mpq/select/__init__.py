"""Tables of numbers in, decisions out: which precision every operator gets and how every tensor is stored.

problem   the tables (operators, choices, tensors, conversions) and what is allowed of them
pricing   what one complete assignment costs
ilp       the best assignment within limits, with bound and gap
evaluate  the price of a given assignment, e.g. uniform 8 bit
pareto    the front between cost and loss
searcher  what whatever searches answers; methods/ has those beside the integer program, one a file
"""
