"""hub_cards: what the Hub shows: cards, results files, the leaderboard page."""
