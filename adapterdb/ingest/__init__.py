"""From files and rows to documents, from documents to passages, from passages to stored deltas."""
