"""The layers of models: linear layers and their storage, norms, embeddings, MLP, rotary tables."""
