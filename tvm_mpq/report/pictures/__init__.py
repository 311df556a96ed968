"""Pictures of the page, one a file: numbers, colours and places; templates draw them."""
