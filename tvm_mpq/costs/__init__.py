"""The table of costs: what every request of a network takes on the device.

table       the best known kernel of each request and its time
profiler    measures kernels and keeps the records
source      the contract of whatever fills tables
measured    tables filled by measuring;  predicted  tables of which only a part is measured
fixed       what no plan changes;  correction  from kernels alone to kernels in a network
"""
