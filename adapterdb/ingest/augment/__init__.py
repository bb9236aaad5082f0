"""Documents to what a model writes about them: facts, questions, paraphrases, tags."""
