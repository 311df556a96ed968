"""Where code runs: sessions with this machine or a board, and pools of boards."""
