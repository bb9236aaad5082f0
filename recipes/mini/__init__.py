"""How the packaged base model `mini` is made: prepare, reader, meta, evaluate, export."""
