"""The dense frame as text, for families that are not moved yet."""
