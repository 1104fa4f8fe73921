"""What searches and scores: the contract, torch, CTranslate2."""
