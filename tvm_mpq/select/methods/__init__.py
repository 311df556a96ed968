"""Ways to search for plans, one a file, all behind `tvm_mpq.select.searcher.Searcher`.

Each looks at plans through the same `Search`: priced by the same tables, tensors completed in the fastest way, counted,
and remembered where they are within the limits. docs/search_methods.md says what is whose.
"""
