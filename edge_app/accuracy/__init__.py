"""How good recognition is on a folder: pairs, open set, intervals; numpy only."""
